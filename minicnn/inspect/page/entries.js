"use strict";
// Where one entry comes from: for the operations that move a window or multiply matrices, the numbers that are put
// together. They are computed here from the arrays on the page, in double precision.
//
// An account of an entry:
//   groups   [{label, parts: [{name, of, grid}], product: grid or null, sum}], what is multiplied and added up; `of` is
//            the array that the numbers are from, whose colour scale they have
//   each     what a group is: "channel", "image", "filter", "row"
//   plus     [{label, value}], what is added besides
//   divisor  what the sum is divided by (a mean), else null
//   how      "sum" or "max"
//   total    what comes out; NaN is a value like any other
//   absent   how many terms are not on the page
//   sentence what is seen, in words
//   regions  by the name of an array, where in it the numbers were taken
//
// A grid has rows, columns, and for each cell a value and a state.

const NUMBER = 0; // the value counts
const PADDING = 1; // outside of the map: a zero, or for a maximum nothing
const ABSENT = 2; // cut off: not on this page
const NOTHING = 3; // there is no term here

function gridOf(rows, columns, cellAt) {
  const grid = { rows, columns, values: new Float64Array(rows * columns), states: new Uint8Array(rows * columns) };
  for (let k = 0; k < rows; k++) {
    for (let l = 0; l < columns; l++) {
      const value = cellAt(k, l);
      const i = k * columns + l;
      if (typeof value === "symbol") grid.states[i] = value === outside ? PADDING : NOTHING;
      else if (value === undefined) grid.states[i] = ABSENT;
      else grid.values[i] = value;
    }
  }
  return grid;
}
const outside = Symbol("in the padding");
const nothing = Symbol("no term");

function product(a, b) {
  const grid = gridOf(a.rows, a.columns, () => 0);
  for (let i = 0; i < grid.values.length; i++) {
    const states = [a.states[i], b.states[i]];
    grid.states[i] = [NOTHING, PADDING, ABSENT].find((state) => states.includes(state)) ?? NUMBER;
    grid.values[i] = a.values[i] * b.values[i];
  }
  return grid;
}

function numbersIn(grid) {
  return [...grid.values].filter((_, i) => grid.states[i] === NUMBER);
}

// The sum with the rounding of each addition carried along (Neumaier), as exact as double precision has it.
function sumOf(values) {
  let sum = 0;
  let lost = 0;
  for (const value of values) {
    const next = sum + value;
    lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
  }
  return Number.isFinite(sum) ? sum + lost : sum;
}

function part(name, of, grid) {
  return { name, of, grid };
}

// What is in one part, added up.
function added(label, only) {
  return { label, parts: [only], product: null, sum: sumOf(numbersIn(only.grid)) };
}

// Two parts multiplied entry by entry, and the products added up.
function multiplied(label, a, b) {
  const products = product(a.grid, b.grid);
  return { label, parts: [a, b], product: products, sum: sumOf(numbersIn(products)) };
}

// Groups of a single number each as one group.
function merged(groups) {
  if (groups.length < 2 || groups.some((each) => each.parts[0].grid.values.length > 1)) return groups;
  const cells = (number) =>
    groups.map((each) => {
      const { states, values } = each.parts[number].grid;
      return [values[0], outside, undefined, nothing][states[0]];
    });
  const parts = groups[0].parts.map(({ name, of }, number) => {
    const values = cells(number);
    return part(
      name,
      of,
      linesOf(values.length, (i) => values[i]),
    );
  });
  return [parts.length > 1 ? multiplied("", ...parts) : added("", ...parts)];
}

function account(given) {
  const parts = { ...given, groups: merged(given.groups) };
  const { groups, plus = [], divisor = null } = parts;
  const sum = sumOf([...groups.map((each) => each.sum), ...plus.map((each) => each.value)]);
  const lastGrids = groups.map((each) => each.product || each.parts[0].grid);
  const absent = lastGrids.reduce((n, grid) => n + grid.states.filter((state) => state === ABSENT).length, 0);
  return { how: "sum", total: divisor === null ? sum : sum / divisor, ...parts, plus, divisor, absent };
}

// Which of the accounts there is for an array of a step; null where there is none.
//   arrays: by name, "input", "weight", "bias", "output", "g" (the gradient that arrived), each a Stored
//   name: "output", or the argument whose gradient it is
function accountOf(operation, arrays, name, index) {
  const families = {
    conv2d: convolution,
    linear: fullyConnected,
    max_pool2d: maximum,
    avg_pool2d: average,
    adaptive_avg_pool2d: average,
  };
  const makers = families[operation.op];
  const maker = makers && Object.hasOwn(makers, name) ? makers[name] : null;
  return maker ? maker(arrays, operation.parameters, index, operation) : null;
}

// ------------------------------------------------------------------------------------------------- convolution
// Output (i, j) sees the input at row i·stride − padding + k·dilation for each row k of the kernel, and columns alike.

function windowAt(output, parameters) {
  const { stride, padding, dilation = [1, 1] } = parameters;
  return (k, axis) => output[axis] * stride[axis] - padding[axis] + k * dilation[axis];
}

// The output whose window has an input's entry at its place k; null where there is none.
function outputOver(at, k, axis, parameters, count) {
  const { stride, padding, dilation = [1, 1] } = parameters;
  const i = (at + padding[axis] - k * dilation[axis]) / stride[axis];
  return Number.isInteger(i) && i >= 0 && i < count ? i : null;
}

function reach(size, axis, { dilation = [1, 1] }) {
  return dilation[axis] * (size - 1) + 1;
}

function taken(stored, lead, y, x) {
  const [height, width] = stored.shape.slice(-2);
  return y < 0 || x < 0 || y >= height || x >= width ? outside : stored.at([...lead, y, x]);
}

// The map at `lead` as a grid.
function wholeMap(stored, lead) {
  return gridOf(...stored.shape.slice(-2), (k, l) => stored.at([...lead, k, l]));
}

// A bias, which is added to what comes out: as `plus` and `regions` of an account. It is never cut before entry `o`,
// because an array that has entries of its o-th channel on the page is larger.
function biasAt(bias, o) {
  if (!bias) return { plus: [], regions: {} };
  return {
    plus: [{ label: `bias[${o}]`, value: bias.at([o]) }],
    regions: { bias: [{ lead: [], y: 0, x: o, h: 1, w: 1 }] },
  };
}

const range = (n) => Array.from({ length: n }, (_, i) => i);

const convolution = {
  output({ input, weight, bias }, parameters, [n, o, i, j]) {
    const [filters, channels, rows, columns] = weight.shape;
    const first = Math.floor(o / (filters / parameters.groups)) * channels;
    const at = windowAt([i, j], parameters);
    const groups = range(channels).map((c) =>
      multiplied(
        `channel ${first + c}`,
        part(
          "patch",
          "input",
          gridOf(rows, columns, (k, l) => taken(input, [n, first + c], at(k, 0), at(l, 1))),
        ),
        part("kernel", "weight", wholeMap(weight, [o, c])),
      ),
    );
    const { plus, regions } = biasAt(bias, o);
    return account({
      groups,
      each: "channel",
      plus,
      sentence:
        `The window stands at row ${at(0, 0)}, column ${at(0, 1)} of the input` +
        (parameters.groups > 1 ? `; filter ${o} sees the channels ${first} to ${first + channels - 1}` : ""),
      regions: {
        input: [
          {
            lead: [n, [first, first + channels]],
            y: at(0, 0),
            x: at(0, 1),
            h: reach(rows, 0, parameters),
            w: reach(columns, 1, parameters),
          },
        ],
        weight: [{ lead: [o, null], y: 0, x: 0, h: rows, w: columns }],
        ...regions,
      },
    });
  },

  weight({ input, weight, g }, parameters, [o, c, k, l]) {
    const [, , rows, columns] = g.shape;
    const channel = Math.floor(o / (weight.shape[0] / parameters.groups)) * weight.shape[1] + c;
    const top = k * parameters.dilation[0] - parameters.padding[0];
    const left = l * parameters.dilation[1] - parameters.padding[1];
    const [down, right] = parameters.stride;
    const images = range(g.shape[0]);
    const groups = images.map((n) =>
      multiplied(
        `image ${n}`,
        part(
          "what the weight met",
          "input",
          gridOf(rows, columns, (i, j) => taken(input, [n, channel], top + i * down, left + j * right)),
        ),
        part("gradient g", "g", wholeMap(g, [n, o])),
      ),
    );
    return account({
      groups,
      each: "image",
      sentence:
        `The weight met channel ${channel} of the input from row ${top}, column ${left} on` +
        (down * right > 1 ? `, every ${down} rows and ${right} columns` : "") +
        `, and each product went to map ${o} of the output`,
      regions: {
        input: [{ lead: [null, channel], y: top, x: left, h: (rows - 1) * down + 1, w: (columns - 1) * right + 1 }],
        g: [{ lead: [null, o], y: 0, x: 0, h: rows, w: columns }],
      },
    });
  },

  input({ weight, g }, parameters, [n, channel, y, x]) {
    const [filters, channels, rows, columns] = weight.shape;
    const each = filters / parameters.groups;
    const first = Math.floor(channel / channels) * each;
    const c = channel % channels;
    const over = range(rows).map((k) => outputOver(y, k, 0, parameters, g.shape[2]));
    const beside = range(columns).map((l) => outputOver(x, l, 1, parameters, g.shape[3]));
    const met = (k, l) => over[k] !== null && beside[l] !== null;
    const groups = range(each).map((number) => {
      const o = first + number;
      return multiplied(
        `filter ${o}`,
        part(
          "kernel",
          "weight",
          gridOf(rows, columns, (k, l) => (met(k, l) ? weight.at([o, c, k, l]) : nothing)),
        ),
        part(
          "gradient g",
          "g",
          gridOf(rows, columns, (k, l) => (met(k, l) ? g.at([n, o, over[k], beside[l]]) : nothing)),
        ),
      );
    });
    const [is, js] = [over, beside].map((found) => found.filter((i) => i !== null));
    const region =
      is.length && js.length
        ? [
            {
              lead: [n, [first, first + each]],
              y: Math.min(...is),
              x: Math.min(...js),
              h: Math.max(...is) - Math.min(...is) + 1,
              w: Math.max(...js) - Math.min(...js) + 1,
            },
          ]
        : [];
    return account({
      groups,
      each: "filter",
      sentence:
        `${is.length * js.length} windows of each filter saw this entry of the input; each gives back its gradient ` +
        "times the weight that the entry met",
      regions: { g: region, weight: [{ lead: [[first, first + each], c], y: 0, x: 0, h: rows, w: columns }] },
    });
  },

  bias({ g }, parameters, [o]) {
    const [images, , rows, columns] = g.shape;
    const groups = range(images).map((n) => added(`image ${n}`, part("gradient g", "g", wholeMap(g, [n, o]))));
    return account({
      groups,
      each: "image",
      sentence: `The bias was added to every entry of map ${o}, so all their gradients add up`,
      regions: { g: [{ lead: [null, o], y: 0, x: 0, h: rows, w: columns }] },
    });
  },
};

// ------------------------------------------------------------------------------------------- matrix products

// `count` numbers as a grid that is about as wide as a line of text.
function linesOf(count, valueAt) {
  const columns = Math.min(count, count <= 12 ? 12 : 20);
  const rows = Math.ceil(count / columns);
  return gridOf(rows, columns, (k, l) => (k * columns + l < count ? valueAt(k * columns + l) : nothing));
}

const fullyConnected = {
  output({ input, weight, bias }, parameters, index) {
    const [lead, o] = [index.slice(0, -1), index.at(-1)];
    const count = weight.shape.at(-1);
    const { plus, regions } = biasAt(bias, o);
    return account({
      groups: [
        multiplied(
          "",
          part(
            "input",
            "input",
            linesOf(count, (i) => input.at([...lead, i])),
          ),
          part(
            `row ${o} of the weight`,
            "weight",
            linesOf(count, (i) => weight.at([o, i])),
          ),
        ),
      ],
      each: "row",
      plus,
      sentence: `All ${count} inputs, each times its weight in row ${o}`,
      regions: { weight: [{ lead: [], y: o, x: 0, h: 1, w: count }], ...regions },
    });
  },

  weight({ input, g }, parameters, [o, i]) {
    return account({
      groups: [multiplied("", inAllRows("gradient g", "g", g, o), inAllRows("input", "input", input, i))],
      each: "row",
      sentence:
        `The weight leads from input ${i} to output ${o}: its gradient is their product` +
        (rowsOf(g).length > 1 ? ", summed over the batch" : ""),
      regions: { g: [vectorRegion(g, o)], input: [vectorRegion(input, i)] },
    });
  },

  input({ weight, g }, parameters, index) {
    const [lead, i] = [index.slice(0, -1), index.at(-1)];
    const count = weight.shape[0];
    return account({
      groups: [
        multiplied(
          "",
          part(
            "gradient g",
            "g",
            linesOf(count, (o) => g.at([...lead, o])),
          ),
          inAllRows(`column ${i} of the weight`, "weight", weight, i),
        ),
      ],
      each: "row",
      sentence: `The entry went into all ${count} outputs; each gives back its gradient times the weight on the way`,
      regions: { weight: [vectorRegion(weight, i)] },
    });
  },

  bias({ g }, parameters, [o]) {
    return account({
      groups: [added("", inAllRows("gradient g", "g", g, o))],
      each: "row",
      sentence: `The bias was added to output ${o}` + (rowsOf(g).length > 1 ? " of every item of the batch" : ""),
      regions: { g: [vectorRegion(g, o)] },
    });
  },
};

// The indices of the rows along the last axis.
function rowsOf(stored) {
  const lead = stored.shape.slice(0, -1);
  return indices(
    lead,
    lead.map(() => null),
  );
}

// Entry `i` of the last axis, in all rows: as a part, and as a region.
function inAllRows(name, of, stored, i) {
  const rows = rowsOf(stored);
  return part(
    name,
    of,
    linesOf(rows.length, (n) => stored.at([...rows[n], i])),
  );
}

function vectorRegion(stored, i) {
  const rows = stored.shape.length > 1 ? stored.shape.at(-2) : 1;
  return { lead: stored.shape.slice(0, -2).map(() => null), y: 0, x: i, h: rows, w: 1 };
}

// ------------------------------------------------------------------------------------------------- pooling

// Which rows of the input (or columns, axis 1) window `i` covers, those outside included; and how many of them a mean
// counts.
function covered(i, axis, length, operation, outputLength) {
  const { parameters } = operation;
  if (operation.op === "adaptive_avg_pool2d") {
    const [start, end] = [Math.floor((i * length) / outputLength), Math.ceil(((i + 1) * length) / outputLength)];
    return { rows: range(end - start).map((k) => start + k), counted: end - start };
  }
  const size = parameters.kernel_size[axis];
  const at = windowAt([i, i], parameters);
  const rows = range(size).map((k) => at(k, axis));
  const margin = parameters.count_include_pad ? parameters.padding[axis] : 0;
  return { rows, counted: rows.filter((y) => y >= -margin && y < length + margin).length };
}

function windowOf(arrays, operation, [n, c, i, j]) {
  const { input, output } = arrays;
  const [height, width] = input.shape.slice(2);
  const down = covered(i, 0, height, operation, output.shape[2]);
  const right = covered(j, 1, width, operation, output.shape[3]);
  const grid = gridOf(down.rows.length, right.rows.length, (k, l) => taken(input, [n, c], down.rows[k], right.rows[l]));
  const [y, x] = [down.rows[0], right.rows[0]];
  const region = { lead: [n, c], y, x, h: down.rows.at(-1) - y + 1, w: right.rows.at(-1) - x + 1 };
  return { down, right, grid, region, divisor: operation.parameters.divisor_override ?? down.counted * right.counted };
}

// The place of the largest in a window, of equals the first, and NaN before all; -1 where a part is not on the page.
function winner(grid) {
  if (grid.states.includes(ABSENT)) return -1;
  const inside = range(grid.values.length).filter((i) => grid.states[i] === NUMBER);
  const broken = inside.find((i) => Number.isNaN(grid.values[i]));
  return broken ?? inside.reduce((best, i) => (grid.values[i] > grid.values[best] ? i : best), inside[0]);
}

// For an entry of the input, the windows that it is in: [{i, j, k, l}], at place (k, l) of window (i, j).
function windowsOver(arrays, operation, [y, x]) {
  const { input, output } = arrays;
  const along = [y, x].map((at, axis) =>
    range(output.shape[2 + axis]).flatMap((i) => {
      const k = covered(i, axis, input.shape[2 + axis], operation, output.shape[2 + axis]).rows.indexOf(at);
      return k < 0 ? [] : [[i, k]];
    }),
  );
  return { rows: along[0], columns: along[1] };
}

// The windows over an entry as two grids: their gradients, and what each is multiplied with.
function givenBack(arrays, operation, [n, c, y, x], name, factor) {
  const { rows, columns } = windowsOver(arrays, operation, [y, x]);
  const { g } = arrays;
  const groups = [
    multiplied(
      "",
      part(
        "gradient g",
        "g",
        gridOf(rows.length, columns.length, (a, b) => g.at([n, c, rows[a][0], columns[b][0]])),
      ),
      part(
        name,
        "",
        gridOf(rows.length, columns.length, (a, b) => factor(rows[a], columns[b])),
      ),
    ),
  ];
  const region =
    rows.length && columns.length
      ? [{ lead: [n, c], y: rows[0][0], x: columns[0][0], h: rows.length, w: columns.length }]
      : [];
  return { groups, count: rows.length * columns.length, region };
}

const standing = ({ y, x }, [, c]) => `The window stands at row ${y}, column ${x} of channel ${c}`;
const windows = (count) => (count === 1 ? "one window" : `${count} windows`);

const maximum = {
  output(arrays, parameters, index, operation) {
    const { grid, region } = windowOf(arrays, operation, index);
    const best = winner(grid);
    const whole = account({
      groups: [added("", part("window", "input", grid))],
      each: "window",
      how: "max",
      sentence: `${standing(region, index)}; its largest entry wins`,
      regions: { input: [region] },
    });
    return { ...whole, best, total: best < 0 ? NaN : grid.values[best] };
  },

  input(arrays, parameters, index, operation) {
    const [n, c] = index;
    const given = givenBack(arrays, operation, index, "won? 1 or 0", ([i, k], [j, l]) => {
      const { grid, right } = windowOf(arrays, operation, [n, c, i, j]);
      const best = winner(grid);
      return best < 0 ? undefined : Number(best === k * right.rows.length + l);
    });
    return account({
      groups: given.groups,
      each: "window",
      sentence: `The entry was in ${windows(given.count)}; where it was the largest, it gets the gradient`,
      regions: { g: given.region },
    });
  },
};

const average = {
  output(arrays, parameters, index, operation) {
    const { grid, region, divisor } = windowOf(arrays, operation, index);
    return account({
      groups: [added("", part("window", "input", grid))],
      each: "window",
      divisor,
      sentence: `${standing(region, index)}; its sum is divided by ${divisor}`,
      regions: { input: [region] },
    });
  },

  input(arrays, parameters, index, operation) {
    const [n, c] = index;
    const given = givenBack(
      arrays,
      operation,
      index,
      "1 / n",
      ([i], [j]) => 1 / windowOf(arrays, operation, [n, c, i, j]).divisor,
    );
    return account({
      groups: given.groups,
      each: "window",
      sentence: `The entry was in ${windows(given.count)}; each gives back its gradient, shared among its n entries`,
      regions: { g: given.region },
    });
  },
};
