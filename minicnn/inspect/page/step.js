"use strict";
// What is shown of one step. `data`, `arrays`, `colours`, `go` and the like are the page's (page.js).

// Which arrays of a step have one colour scale.
const SCALES = {
  kinds: "one for values, one for gradients, each parameter its own",
  own: "each array its own",
  step: "one for all of this step",
};
let scale = "kinds";

// What is shown of one step: its formula, its arrays, and where the entry that is pointed at comes from.
class Panel {
  constructor(step) {
    this.step = step;
    this.maps = [];
    this.named = {}; // the arrays of the step but the gradients that it made, as an account asks for them
    this.chosen = null; // {map, index}: the entry whose account is shown
    this.held = false;
    this.showAll = false;
    this.moving = null;
    this.element = make("div", {}, ...this.head());
    this.entry = make("code");
    this.moveButton = make("button", { type: "button", class: "move", onclick: () => this.move(this.moving === null) });
    this.heldButton = make("button", { type: "button", class: "held", onclick: release }, "held: let go (Esc)");
    this.accountBody = make("div");
    this.accountElement = make(
      "section",
      { class: "account", "aria-label": "where one entry comes from", hidden: true },
      make("header", {}, make("h3", {}, "Where ", this.entry, " comes from"), this.heldButton, this.moveButton),
      this.accountBody,
    );
  }

  head() {
    const { operation, direction, number } = this.step;
    const other = direction === "forward" ? backwardStep.get(this.step.place) : this.step.place;
    return [
      make(
        "header",
        {},
        make("span", { class: "direction" }, direction === "forward" ? "forward ↓" : "backward ↑"),
        make("h2", {}, make("b", {}, operation.op), operation.path ? make("span", {}, ` in ${operation.path}`) : null),
        make("small", {}, `step ${number + 1} of ${count}`),
        make(
          "button",
          { type: "button", class: "other", onclick: () => go(other) },
          direction === "forward" ? "the same backward ↑" : "the same forward ↓",
        ),
      ),
      drawFormula(data.formulas[operation.formula], direction),
      operation.settings ? make("p", { class: "settings" }, operation.settings) : null,
    ];
  }

  // The arrays need to know how wide they may be, so they come when the element is in its place.
  fill() {
    const { operation, backward } = this.step;
    const inputs = operation.inputs.map((input) => ({
      name: input.name,
      array: input.array,
      kind: input.isParameter ? null : "values",
      remark: ["from ", jump(input.source, input.from)],
      note: input.saved ? "kept for backward" : "",
    }));
    const output = {
      name: "output",
      array: operation.output,
      kind: "values",
      remark: [],
      note: operation.outputSaved ? "kept for backward" : "",
    };
    // What is looked at together stands together: what came in and what came of it; below it, where that comes from;
    // then the rest.
    const [above, below] = backward
      ? [
          [
            {
              name: "g",
              title: "g = ∂L/∂output",
              array: backward.gradient,
              kind: "gradients",
              remark: ["the gradient that arrived"],
              note: "",
            },
            ...backward.gradients.map((gradient) => this.gradientCard(gradient)),
          ],
          [...inputs, output],
        ]
      : [[...inputs.slice(0, 1), output], inputs.slice(1)];
    this.element.append(this.scaleChoice());
    this.addCards(above, backward ? (card) => card.argument : (card) => card === output);
    if (operation.scores) this.element.append(drawScores(this.step, arrays));
    this.element.append(this.accountElement);
    if (backward && below.length) this.element.append(make("h3", {}, "The values of the forward pass"));
    this.addCards(below, () => false);
    this.rescale();
    this.choose();
    if (backward) this.element.append(...backward.gradients.filter((gradient) => gradient.example).map(drawExample));
  }

  addCards(cards, isExplained) {
    const list = make("div", { class: "cards" });
    this.element.append(list);
    for (const card of cards) list.append(make("figure", { class: "card", "data-name": card.name }));
    cards.forEach((card, i) => this.fillCard(list.children[i], card, Boolean(isExplained(card))));
  }

  gradientCard(gradient) {
    return {
      name: `∂${gradient.name}`,
      argument: gradient.name,
      title: `∂L/∂${gradient.name}`,
      array: gradient.array,
      kind: gradient.isParameter ? null : "gradients",
      remark: [gradient.added ? "added to " : "written to ", jump(gradient.to, gradient.toOperation, true)],
      note: gradient.added ? "something was there before" : "",
    };
  }

  // `explained`: whether there is an account of its entries.
  fillCard(element, card, explained) {
    const stored = arrays[card.array];
    if (!card.argument) this.named[card.name] = stored;
    const width = Math.max(160, element.clientWidth - 30);
    const map = stored.size ? new HeatMap(card.name, stored, width, colours, this) : null;
    const readout = make("p", { class: "readout" });
    const words = stored.inWords.map(([name, value]) => make("span", {}, make("i", {}, name), ` ${value}`));
    element.append(
      make(
        "figcaption",
        {},
        make("b", {}, card.title || card.name),
        ` ${dimensions(stored.shape)} `,
        make("small", {}, stored.dtype),
      ),
      make("p", { class: "remark" }, ...card.remark, card.remark.length && card.note ? "; " : "", card.note),
      map ? map.element : make("p", {}, "empty"),
      readout,
      make("div", { class: "legend" }),
      make("p", { class: "statistics" }, ...words),
      ...(stored.isCut ? [make("p", { class: "warning" }, stored.missing)] : []),
    );
    if (!map) return;
    Object.assign(map, { readout, legend: element.querySelector(".legend"), explained, card });
    readout.textContent = firstText(map);
    this.maps.push(map);
  }

  scaleChoice() {
    const choices = Object.entries(SCALES).map(([value, text]) =>
      make(
        "label",
        {},
        make("input", {
          type: "radio",
          name: "scale",
          value,
          checked: value === scale,
          onchange: () => {
            scale = value;
            this.rescale();
            this.drawAccount();
          },
        }),
        ` ${text}`,
      ),
    );
    return make(
      "div",
      { class: "scale", role: "radiogroup", "aria-label": "colour scale" },
      make("span", {}, "Colour scale:"),
      ...choices,
      make("span", {}, "Point at an entry to read it; arrays of its shape show theirs there."),
    );
  }

  // Whether two maps have one colour scale. A single number, as a loss or a constant is, has no differences to show, and
  // would hide those of the maps beside it.
  isAlike(a, b) {
    if (a === b || scale === "step") return true;
    const isMap = ({ stored, card }) => stored.size > 1 && card.kind !== null;
    return scale === "kinds" && isMap(a) && isMap(b) && a.card.kind === b.card.kind;
  }

  rescale() {
    for (const map of this.maps) {
      const alike = this.maps.filter((other) => this.isAlike(map, other));
      map.bound = Math.max(...alike.map((each) => each.stored.extent)) || 1;
      map.draw(map.bound);
      map.legend.replaceChildren(...legend(map.bound));
    }
  }

  // ------------------------------------------------------------------------------------------- entries

  // The pointer or the cursor has come to an entry: show it in all arrays of this shape.
  pointed(map, index) {
    for (const other of this.maps) {
      if (String(other.stored.shape) === String(map.stored.shape) && other.stored.place(index) >= 0) {
        other.show(index);
        other.readout.textContent = entryText(other, index);
      } else {
        other.forget();
        other.readout.textContent = firstText(other);
      }
    }
    at("announcer").textContent = map.readout.textContent;
    if (!this.held && map.explained) this.account(map, index);
  }

  // An entry was clicked: its account stays while the pointer moves on.
  hold(map, index) {
    this.held = false;
    this.pointed(map, index);
    this.held = map.explained;
    this.drawAccount();
  }

  // The entry that is explained first: the largest; or, where not all of its numbers are on this page and more of them
  // are for its neighbour in the first map, that one.
  choose() {
    const map = this.maps.find((each) => each.explained && this.accountFor(each, each.stored.largest));
    if (!map) return;
    const { largest } = map.stored;
    const first = largest.map((i, axis) => (axis < largest.length - 2 ? 0 : i));
    const [a, b] = [largest, first].map((index) => this.accountFor(map, index).absent);
    this.chosen = { map, index: a <= b ? largest : first };
    this.drawAccount();
  }

  accountFor(map, index) {
    return index && accountOf(this.step.operation, this.named, map.card.argument || map.name, index);
  }

  account(map, index) {
    this.chosen = { map, index };
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.drawAccount();
    });
  }

  drawAccount() {
    if (!this.chosen) return;
    const { map, index } = this.chosen;
    const account = this.accountFor(map, index);
    if (!account) return;
    const stored = map.stored;
    const name = entryName(map.name, index);
    const boundOf = (array) => this.maps.find((each) => each.name === array)?.bound ?? 1;
    for (const each of this.maps)
      each.mark(account.regions[each.name] || [], each === map ? stored.place(index) : null);
    if (map.cursor === null || this.moving !== null) map.readout.textContent = entryText(map, index);
    const all = () => {
      this.showAll = true;
      this.drawAccount();
    };
    this.accountElement.hidden = false;
    this.entry.textContent = name;
    this.moveButton.textContent = this.moving === null ? "▶ move on from entry to entry" : "❚❚ stop";
    this.heldButton.hidden = !this.held;
    this.accountBody.replaceChildren(
      make("p", { class: "sentence" }, `${account.sentence}.`),
      ...drawTotal(account, name, stored.at(index), stored.code),
      drawAccount(account, colours, boundOf, this.showAll, all),
    );
  }

  // Go on by itself through the entries of the array that is explained.
  move(on) {
    clearInterval(this.moving);
    this.moving = null;
    if (on && this.chosen) {
      const { map } = this.chosen;
      this.held = true;
      this.moving = setInterval(() => {
        const { stored } = map;
        const next = (stored.place(this.chosen.index) + 1) % stored.values.length;
        this.chosen = { map, index: stored.index(next) };
        this.drawAccount();
      }, 500);
    }
    this.drawAccount();
  }

  close() {
    clearInterval(this.moving);
    cancelAnimationFrame(this.waiting);
  }
}

function entryText(map, index) {
  return `${entryName(map.name, index)} = ${exact(map.stored.at(index), map.stored.code)}`;
}

// What is said before an entry is pointed at: a single number needs no pointing.
function firstText(map) {
  return map.stored.size === 1 ? entryText(map, map.stored.index(0)) : " ";
}

// A word that leads to an operation's step, in the direction that the walk is in or, with `backward`, backward.
function jump(text, operation, backward = false) {
  if (operation === null) return text;
  const target = () =>
    go(backward || steps[position].direction === "backward" ? backwardStep.get(operation) : operation);
  return make("button", { type: "button", class: "jump", onclick: target }, text);
}

// Forward what the operation does; backward what comes of the gradient too.
function drawFormula([forward, backward], direction) {
  const statements = direction === "forward" ? forward : [...forward, ...backward];
  return make(
    "div",
    { class: "formula" },
    ...statements.map((mathml) => {
      const statement = make("div", {});
      statement.innerHTML = mathml; // from minicnn, which escapes all text in it
      return statement;
    }),
  );
}

// The scale as a bar from −bound to bound.
function legend(bound) {
  const bar = make("span", { class: "bar" });
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => `rgb(${colours.of(2 * share - 1, 1).join(" ")})`);
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  return [make("span", {}, `${MINUS}${rounded(bound)}`), bar, make("span", {}, rounded(bound))];
}
