"use strict";
// An array as a heat map: maps side by side, an entry a square of one colour. The pointer and the arrow keys find
// entries in it.

const GAP = 5; // pixels between maps
const HIGH = 260; // pixels that an array may be high without its scrolling
const LARGE = 14; // pixels that an entry has at most
const APART = 8; // pixels between filters, beside the gap
const SMALL = 14; // pixels that a map has at least
const SCROLLBAR = 16; // pixels that it takes
const LARGEST = 8000; // pixels of a canvas along an axis; what is beyond is not drawn

// A diverging scale: `palette` from −bound by 0 to bound, colours as "#rrggbb".
class Colours {
  constructor(palette, notANumber) {
    const parsed = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
    this.palette = palette.map(parsed);
    this.notANumber = parsed(notANumber);
  }

  // Red, green and blue of a number.
  of(x, bound) {
    if (!Number.isFinite(x)) return this.notANumber;
    const half = (this.palette.length - 1) / 2;
    return this.palette[Math.round(Math.max(-1, Math.min(1, x / bound)) * half) + half];
  }

  // The same for a cell of a table, with letters that are read on it.
  style(x, bound) {
    const [red, green, blue] = this.of(x, bound);
    const [r, g, b] = [red, green, blue].map((v) => (v / 255) ** 2.2);
    const isLight = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18; // black letters have more contrast from here on
    return { background: `rgb(${red} ${green} ${blue})`, color: isLight ? "#000" : "#fff" };
  }
}

// How the kept entries of an array stand in a space `width` pixels wide: `tiles` (maps) of height × width entries, in
// the order of the entries, `across` of them in a line, each entry `cell` pixels wide and `tall` high, `gap` pixels
// between tiles and `APART` more after every `block` of them. All is as large as fits.
function tiling(kept, width) {
  const long = kept.filter((n) => n > 1);
  if (long.length < 2) return vectorTiling(long[0] || 1, width);
  if (kept.length < 3 || long.length === 2) {
    const [height, wide] = long;
    const cell = Math.max(2, Math.min(LARGE, Math.floor(width / wide), Math.floor(HIGH / height)));
    return { tiles: 1, height, width: wide, across: 1, block: 1, cell, tall: cell, gap: 0, n: height * wide };
  }
  const [height, wide] = kept.slice(-2);
  const tiles = kept.slice(0, -2).reduce((a, b) => a * b, 1);
  const block = kept.length === 4 && kept[0] > 1 ? kept[1] : 1; // the channels of a filter stand together
  const apart = block > 1 ? APART : 0;
  const acrossAt = (cell) =>
    block *
    Math.max(1, Math.min(tiles / block, Math.floor((width + GAP + apart) / (block * (wide * cell + GAP) + apart))));
  const fits = (cell) => {
    const lines = Math.ceil(tiles / acrossAt(cell));
    return lines * (height * cell + GAP) <= HIGH && block * (wide * cell + GAP) - GAP <= width;
  };
  const smallest = Math.ceil(SMALL / Math.max(height, wide));
  let cell = LARGE;
  while (cell > smallest && !fits(cell)) cell--;
  if (!fits(cell)) width -= SCROLLBAR;
  return {
    tiles,
    height,
    width: wide,
    across: acrossAt(cell),
    block,
    cell,
    tall: cell,
    gap: GAP,
    n: tiles * height * wide,
  };
}

// A vector, broken into lines.
function vectorTiling(n, width) {
  const perLineAt = (cell) => Math.max(1, Math.min(n, Math.floor(width / cell)));
  let cell = 18;
  while (cell > 5 && Math.ceil(n / perLineAt(cell)) * cell > HIGH / 3) cell--;
  const perLine = perLineAt(cell);
  const lines = Math.ceil(n / perLine);
  return { tiles: lines, height: 1, width: perLine, across: 1, block: 1, cell, tall: cell, gap: lines > 1 ? 1 : 0, n };
}

class HeatMap {
  // `listener` has pointed(heatMap, index) and, for an entry that is clicked, hold(heatMap, index).
  constructor(name, stored, width, colours, listener) {
    Object.assign(this, { name, stored, colours, listener });
    this.form = tiling(stored.kept, width);
    const { tiles, across, block, cell, tall, gap, height } = this.form;
    this.tileWidth = this.form.width * cell;
    this.tileHeight = height * tall;
    this.blockWidth = block * (this.tileWidth + gap) + (block > 1 ? APART : 0);
    this.width = Math.min(LARGEST, this.corner(Math.min(across, tiles) - 1)[0] + this.tileWidth);
    this.height = Math.min(LARGEST, Math.ceil(tiles / across) * (this.tileHeight + gap) - gap);
    this.canvas = make("canvas", {
      tabindex: 0,
      role: "img",
      "aria-label": `${name}, ${dimensions(stored.shape)}, as a heat map; arrow keys go from entry to entry`,
    });
    this.marks = make("canvas", { class: "marks", "aria-hidden": "true" });
    this.element = make("div", { class: "heatmap" }, make("div", { class: "sheet" }, this.canvas, this.marks));
    for (const canvas of [this.canvas, this.marks]) {
      canvas.width = this.width * devicePixelRatio;
      canvas.height = this.height * devicePixelRatio;
      canvas.style.width = `${this.width}px`;
      canvas.style.height = `${this.height}px`;
    }
    Object.assign(this, { regions: [], entry: null, cursor: null }); // the places of entries in `values`
    this.canvas.addEventListener("pointermove", (event) => this.point(event, false));
    this.canvas.addEventListener("click", (event) => this.point(event, true));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("focus", () => {
      if (this.cursor === null && this.canvas.matches(":focus-visible")) this.moveTo(0);
    });
  }

  draw(bound) {
    const { values } = this.stored;
    const { tiles, width, height, cell, tall, n } = this.form;
    const context = this.canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.imageSmoothingEnabled = false;
    const small = make("canvas", { width, height }); // one tile, an entry a pixel, to be enlarged
    const pixels = new ImageData(width, height);
    for (let tile = 0; tile < tiles; tile++) {
      const [x, y] = this.corner(tile);
      if (x > LARGEST || y > LARGEST) continue;
      pixels.data.fill(0);
      for (let i = 0; i < width * height && tile * width * height + i < n; i++) {
        pixels.data.set([...this.colours.of(values[tile * width * height + i], bound), 255], 4 * i);
      }
      small.getContext("2d").putImageData(pixels, 0, 0);
      context.drawImage(small, x, y, width * cell, height * tall);
    }
  }

  corner(tile) {
    const { across, block, gap } = this.form;
    const column = tile % across;
    const x = Math.floor(column / block) * this.blockWidth + (column % block) * (this.tileWidth + gap);
    return [x, Math.floor(tile / across) * (this.tileHeight + gap)];
  }

  // The rectangle of an entry: left, top, width, height.
  square(place) {
    const { width, height, cell, tall } = this.form;
    const tile = Math.floor(place / (width * height));
    const within = place % (width * height);
    const [x, y] = this.corner(tile);
    return [x + (within % width) * cell, y + Math.floor(within / width) * tall, cell, tall];
  }

  // The place of the entry at a point; -1 between the maps.
  placeAt(x, y) {
    const { width, height, cell, tall, across, block, gap, tiles, n } = this.form;
    const blockNumber = Math.floor(x / this.blockWidth);
    const inBlock = Math.floor((x - blockNumber * this.blockWidth) / (this.tileWidth + gap));
    const column = blockNumber * block + inBlock;
    const tile = Math.floor(y / (this.tileHeight + gap)) * across + column;
    const [left, top] = this.corner(tile);
    const [k, l] = [Math.floor((y - top) / tall), Math.floor((x - left) / cell)];
    const place = tile * width * height + k * width + l;
    const isInside = x >= 0 && y >= 0 && inBlock < block && column < across && tile < tiles && l < width && k < height;
    return isInside && place < n ? place : -1;
  }

  point(event, hold) {
    const box = this.canvas.getBoundingClientRect();
    const place = this.placeAt(event.clientX - box.left, event.clientY - box.top);
    if (place < 0) return;
    this.moveTo(place, hold);
  }

  press(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter" || event.key === " ") {
      this.moveTo(this.cursor ?? 0, true);
    } else if (event.key in steps) {
      const [right, down] = steps[event.key];
      const [x, y, width, height] = this.square(this.cursor ?? 0);
      const { gap } = this.form;
      const beside = (distance) =>
        this.placeAt(x + width / 2 + right * (width + distance), y + height / 2 + down * (height + distance));
      const place = [0, gap, gap + APART].map(beside).find((found) => found >= 0);
      if (place !== undefined) this.moveTo(place);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  moveTo(place, hold = false) {
    if (place === this.cursor && !hold) return;
    const index = this.stored.index(place);
    if (hold) this.listener.hold(this, index);
    else this.listener.pointed(this, index);
  }

  // Put the cursor at an entry.
  show(index) {
    this.cursor = this.stored.place(index);
    this.redrawMarks();
  }

  forget() {
    this.cursor = null;
    this.redrawMarks();
  }

  // Frame `regions`: of the maps at `lead` (null: all along that axis) the rows and columns from (y, x) on.
  // And the entry at a place whose account they belong to.
  mark(regions, entry) {
    Object.assign(this, { regions, entry });
    this.redrawMarks();
  }

  redrawMarks() {
    const context = this.marks.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    for (const region of this.regions) this.frames(region).forEach((frame) => outline(context, frame, 1.5));
    for (const place of [this.entry, this.cursor]) if (place !== null) outline(context, this.square(place), 1.5);
  }

  // The frames around a region; what lies side by side has one frame.
  frames({ lead, y, x, h, w }) {
    const { kept } = this.stored;
    const map = kept.slice(lead.length);
    const [rows, columns] = map.length === 1 ? [1, map[0]] : map;
    const [top, left] = [Math.max(y, 0), Math.max(x, 0)];
    const [bottom, right] = [Math.min(y + h, rows), Math.min(x + w, columns)];
    if (bottom <= top || right <= left) return [];
    const found = [];
    for (const index of indices(kept.slice(0, lead.length), lead)) {
      const corners = [
        [top, left],
        [bottom - 1, right - 1],
      ].map((corner) => corner.slice(2 - map.length));
      const [first, last] = corners.map((corner) => this.square(this.stored.place([...index, ...corner])));
      let [frameX, frameY, endX, endY] = [first[0], first[1], last[0] + last[2], last[1] + last[3]];
      if (this.form.height === 1 && last[1] > first[1]) [frameX, endX] = [0, this.width]; // broken into lines
      const before = found.at(-1);
      if (before && before[1] === frameY && before[0] + before[2] === frameX) before[2] = endX - before[0];
      else found.push([frameX, frameY, endX - frameX, endY - frameY]);
    }
    return found;
  }
}

// All indices of an array of `shape` that agree with `lead`, whose entries are numbers, [first, end) or null for all.
function indices(shape, lead) {
  return lead.reduce(
    (found, wanted, axis) => {
      const [first, end] = wanted === null ? [0, shape[axis]] : Array.isArray(wanted) ? wanted : [wanted, wanted + 1];
      const longer = [];
      for (const index of found) {
        for (let i = first; i < Math.min(end, shape[axis]); i++) longer.push([...index, i]);
      }
      return longer;
    },
    [[]],
  );
}

// A frame that is seen on every colour: black, with a white edge.
function outline(context, [x, y, width, height], thickness) {
  for (const [colour, wide] of [
    ["#ffffff", thickness + 2],
    ["#000000", thickness],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    context.strokeRect(x, y, width, height);
  }
}
