"use strict";
// An account of an entry (see entries.js) as tables of numbers: patch × kernel = products, and what they add up to.

const IN_FULL = 12; // rows and columns of a grid whose numbers are written out; a larger one is a heat map
const GROUPS = 8; // channels, filters or images that are shown at first

// `boundOf` gives the end of an array's colour scale.
function drawAccount(account, colours, boundOf, showAll, wantAll) {
  const products = account.groups.flatMap((each) => (each.product ? numbersIn(each.product) : []));
  const bound = products.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0) || 1;
  const shown = showAll ? account.groups : account.groups.slice(0, GROUPS);
  const rows = shown.map((each) => {
    const signed = (sign, grid) =>
      make("div", { class: "signed" }, sign ? make("span", { class: "sign" }, sign) : null, grid);
    const parts = each.parts.map(({ name, of, grid }, i) =>
      signed(i ? "×" : "", drawGrid(name, grid, colours, boundOf(of), account.best)),
    );
    const result = each.product ? [signed("=", drawGrid("products", each.product, colours, bound))] : [];
    const sum = account.how === "sum" ? `${each.label ? ": " : ""}Σ = ${rounded(each.sum, 6)}` : "";
    return make(
      "div",
      { class: "group" },
      make("h4", {}, each.label + sum),
      make("div", { class: "equation" }, ...parts, ...result),
    );
  });
  const rest = account.groups.slice(shown.length);
  if (rest.length) {
    rows.push(
      make(
        "p",
        { class: "rest" },
        `and ${rest.length} more ${account.each}s, which add up to ${rounded(sumOf(rest.map((each) => each.sum)), 6)} `,
        make("button", { type: "button", onclick: wantAll }, "show all"),
      ),
    );
  }
  return make("div", { class: "groups" }, ...rows);
}

// The last line: the sums, what is added besides, and what comes out, beside what the network has there.
function drawTotal(account, name, value, code) {
  const line = make("p", { class: "total" }, account.absent ? "of what is on this page: " : "");
  if (account.how === "max") {
    line.append("largest: ", make("b", { class: "computed" }, account.absent ? "unknown" : exact(account.total, code)));
  } else {
    const sums = account.groups.map((each) => each.sum);
    const written =
      sums.length <= GROUPS ? sums.map((x) => term(x, 4)).join(" + ") : `Σ of ${sums.length} ${account.each}s`;
    const several = sums.length > 1 || account.plus.length || account.divisor !== null;
    if (several) line.append(account.divisor === null ? written : `${written} `);
    for (const { label, value: number } of account.plus)
      line.append(` + ${term(number, 4)} `, make("small", {}, label));
    if (account.divisor !== null) line.append(`/ ${account.divisor}`);
    line.append(several ? " = " : "Σ = ", make("b", { class: "computed" }, rounded(account.total, 9)));
  }
  const there = make("p", { class: "there" }, `the network has ${name} = `, make("b", {}, exact(value, code)));
  if (account.absent) {
    there.append(
      make(
        "span",
        { class: "warning" },
        `; ${account.absent.toLocaleString("en")} of the products that add up to it are missing on this page, ` +
          "which was cut for its size",
      ),
    );
  } else {
    const difference = Math.abs(account.total - value);
    if (difference > 0)
      there.append(make("small", {}, ` (${rounded(difference, 2)} apart: here all is added in double precision)`));
  }
  return [line, there];
}

function drawGrid(name, grid, colours, bound, best = -1) {
  const caption = make("figcaption", {}, name);
  const inFull = grid.rows <= IN_FULL && grid.columns <= IN_FULL;
  return make(
    "figure",
    { class: inFull ? "grid" : "grid small" },
    caption,
    inFull ? table(grid, colours, bound, best) : picture(grid, colours, bound),
  );
}

function table(grid, colours, bound, best) {
  const rows = range(grid.rows).map((k) =>
    make(
      "tr",
      {},
      ...range(grid.columns).map((l) => {
        const i = k * grid.columns + l;
        const state = grid.states[i];
        const cell = make("td", { class: ["", "padding", "absent", "nothing"][state] }, ["", "0", "…", ""][state]);
        if (state === NUMBER) {
          cell.textContent = short(grid.values[i]);
          cell.title = rounded(grid.values[i], 9);
          Object.assign(cell.style, colours.style(grid.values[i], bound));
        } else if (state === PADDING) {
          cell.title = "padding";
        }
        if (i === best) cell.className = "winner";
        return cell;
      }),
    ),
  );
  return make("table", {}, make("tbody", {}, ...rows));
}

// A large grid: an entry a square, and the number under the pointer below.
function picture(grid, colours, bound) {
  const cell = Math.max(2, Math.min(12, Math.floor(224 / Math.max(grid.rows, grid.columns))));
  const canvas = make("canvas", { width: grid.columns * cell, height: grid.rows * cell });
  const context = canvas.getContext("2d");
  grid.values.forEach((x, i) => {
    if (grid.states[i] !== NUMBER && grid.states[i] !== ABSENT) return;
    const [red, green, blue] = colours.of(x, bound);
    context.fillStyle = grid.states[i] === ABSENT ? "rgb(128 128 128 / 0.3)" : `rgb(${red} ${green} ${blue})`;
    context.fillRect((i % grid.columns) * cell, Math.floor(i / grid.columns) * cell, cell, cell);
  });
  const readout = make("p", { class: "readout" }, `${grid.rows}×${grid.columns}`);
  canvas.addEventListener("pointermove", (event) => {
    const [k, l] = [Math.floor(event.offsetY / cell), Math.floor(event.offsetX / cell)];
    const i = k * grid.columns + l;
    if (k >= grid.rows || l >= grid.columns) return;
    readout.textContent =
      `[${k}, ${l}] ` +
      (grid.states[i] === NUMBER
        ? rounded(grid.values[i], 9)
        : ["", "padding", "not on this page", "no term"][grid.states[i]]);
  });
  return make("div", {}, canvas, readout);
}
