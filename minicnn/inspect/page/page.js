"use strict";
// The page itself: the steps, the way through them, and what is shown of each.

const data = JSON.parse(document.getElementById("data").textContent);
const colours = new Colours(data.palette, data.notANumber);
const arrays = data.arrays.map((entry) => new Stored(entry));
const count = data.operations.length;
const at = (id) => document.getElementById(id);

// All steps in their order: first forward, then backward.
const steps = [
  ...data.operations.map((operation, i) => ({ direction: "forward", number: i, operation, place: i })),
  ...data.backward.map((backward, i) => ({
    direction: "backward",
    number: i,
    backward,
    operation: data.operations[backward.operation],
    place: backward.operation,
  })),
];
const backwardStep = new Map(data.backward.map((backward, i) => [backward.operation, count + i]));
let position = 0;

// ------------------------------------------------------------------------------------------------- going about

const network = new Network(data.drawing, data.families, at("drawing"), (operation) =>
  go(steps[position].direction === "forward" ? operation : backwardStep.get(operation)),
);
const normOf = (array) => arrays[array].statistics.norm;
const strips = [
  new Strip(
    "Size of the values",
    "|output|",
    "forward",
    data.operations.map((operation) => ({ norm: normOf(operation.output), label: operation.label })),
    (i) => go(i),
  ),
  new Strip(
    "Size of the gradients",
    "|gradient|",
    "backward",
    data.backward.map((backward) => ({
      norm: normOf(backward.gradient),
      label: data.operations[backward.operation].label,
    })),
    (i) => go(count + i),
  ),
];

function go(to) {
  position = Math.max(0, Math.min(steps.length - 1, to));
  const step = steps[position];
  at("slider").value = position;
  const words = `${step.direction} step ${step.number + 1} of ${count}`;
  at("slider").setAttribute("aria-valuetext", `${words}: ${step.operation.label}`);
  at("position").textContent = `${words}: ${step.operation.label}`;
  for (const id of ["first", "previous"]) at(id).disabled = position === 0;
  for (const id of ["next", "last"]) at(id).disabled = position === steps.length - 1;
  document.body.dataset.direction = step.direction;
  strips[0].show(step.direction === "forward" ? position : -1);
  strips[1].show(step.direction === "backward" ? position - count : -1);
  const reached = (operation) =>
    step.direction === "forward" ? operation <= position : backwardStep.get(operation) <= position;
  network.show(step.place, step.direction, reached);
  showStep(step);
  rememberStep(step);
}

// ------------------------------------------------------------------------------------------------- the address

// "#backward-3" is the third step backward. A page inside another one has no address of its own to keep.
// Browsers slow down who changes the address often, as dragging the slider would: it is written when that has ended.
let remembering = null;
function rememberStep(step) {
  if (location.protocol === "about:") return;
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", `#${step.direction}-${step.number + 1}`), 200);
}

function stepInAddress() {
  const [, direction, number] = location.hash.match(/^#(forward|backward)-(\d+)$/) || [];
  if (!direction || number < 1 || number > count) return null;
  return Number(number) - 1 + (direction === "backward" ? count : 0);
}

window.addEventListener("hashchange", () => {
  const wanted = stepInAddress();
  if (wanted !== null && wanted !== position) go(wanted);
});

// ------------------------------------------------------------------------------------------------- playing

const PAUSE = 1200; // milliseconds from a step to the next
let playing = null;

function play(on) {
  clearInterval(playing);
  playing = null;
  if (on) {
    if (position === steps.length - 1) go(0);
    playing = setInterval(() => (position === steps.length - 1 ? play(false) : go(position + 1)), PAUSE);
  }
  at("play").textContent = on ? "❚❚ pause" : "▶ play";
  at("play").setAttribute("aria-pressed", String(on));
}

const actions = {
  first: () => go(0),
  previous: () => go(position - 1),
  next: () => go(position + 1),
  last: () => go(steps.length - 1),
  "to-forward": () => go(0),
  "to-backward": () => go(count),
  play: () => play(playing === null),
};
for (const [id, action] of Object.entries(actions)) {
  at(id).addEventListener("click", () => {
    if (id !== "play") play(false);
    action();
  });
}
at("slider").max = steps.length - 1;
at("slider").addEventListener("input", () => {
  play(false);
  go(Number(at("slider").value));
});

const KEYS = {
  ArrowRight: "next",
  ArrowLeft: "previous",
  Home: "first",
  End: "last",
  f: "to-forward",
  b: "to-backward",
  " ": "play",
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || at("help").open) return;
  if (event.key === "?") at("help").showModal();
  else if (event.key === "Escape") release();
  if (!(event.key in KEYS)) return;
  const own = event.target.closest("button, summary, select, input");
  const isItsOwn = own && (event.key === " " || (own.tagName === "INPUT" && event.key.length > 1));
  if (isItsOwn) return; // a space presses a button, arrows move a slider
  event.preventDefault();
  if (event.key !== " ") play(false);
  actions[KEYS[event.key]]();
});
at("help-button").addEventListener("click", () => at("help").showModal());

// ------------------------------------------------------------------------------------------------- light and dark

const THEMES = { system: "light or dark: as the system", light: "light", dark: "dark" };
let theme = "system";
at("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = THEMES[theme];
});

// ------------------------------------------------------------------------------------------------- the step

let panel = null;

function showStep(step) {
  if (panel) panel.close();
  panel = new Panel(step);
  at("step").replaceChildren(panel.element);
  panel.fill();
}

function release() {
  panel.held = false;
  panel.drawAccount();
}

// ------------------------------------------------------------------------------------------------- beginning

at("result").textContent = `${data.result.replaceAll("-", MINUS)}; ${count} operations forward, and as many backward`;
at("rule").textContent = data.rule;
at("strips").append(...strips.map((strip) => strip.element));
at("families").append(
  ...network.familiesDrawn.map((family) => {
    const key = make("span", { class: "key" }, family);
    key.style.setProperty("--family", data.families[family]);
    return key;
  }),
);
at("fold-all").addEventListener("click", () => network.foldAll(true));
at("unfold-all").addEventListener("click", () => network.foldAll(false));
new ResizeObserver(() => {
  document.documentElement.style.setProperty("--timeline", `${at("timeline").offsetHeight}px`);
}).observe(at("timeline"));
let widthBefore = at("step").clientWidth;
new ResizeObserver(() => {
  if (at("step").clientWidth === widthBefore) return;
  widthBefore = at("step").clientWidth;
  showStep(steps[position]);
}).observe(at("step"));
go(stepInAddress() ?? 0);
