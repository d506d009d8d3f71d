"use strict";
// The network as a graph: a box for each operation, groups that fold, and the lines between them. The browser places
// the boxes; the lines are drawn where the boxes have come to stand.

const FEW = 40; // operations of a network that is shown unfolded

class Network {
  // chosen(operation) is called for a box that is clicked.
  constructor(root, families, container, chosen) {
    Object.assign(this, { root, families, container, chosen });
    this.items = new Map(); // by id: {item, element, parent}
    this.boxes = new Map(); // by operation: its element
    this.groups = [];
    this.familiesDrawn = [];
    this.byHand = new Map(); // groups that the reader folded (true) or unfolded (false)
    this.lines = makeSvg("svg", { class: "lines", "aria-hidden": "true" });
    this.sheet = make("div", { class: "sheet" }, this.build(root, null), this.lines);
    container.append(this.sheet);
    this.small = this.boxes.size <= FEW;
    this.connectedAt = ""; // the size of the sheet that the lines are drawn for
    new ResizeObserver(() => this.sizeOfSheet() === this.connectedAt || this.connect()).observe(this.sheet);
  }

  build(item, parent) {
    const element = item.rows
      ? this.group(item)
      : item.label === undefined
        ? make("div", { class: "lane" })
        : this.box(item);
    element.dataset.id = item.id;
    this.items.set(item.id, { item, element, parent });
    if (item.rows) {
      const ports = new Set([...item.inputs, ...item.outputs]);
      for (const row of item.rows) {
        const line = make("div", { class: row.every((each) => ports.has(each.id)) ? "row ports" : "row" });
        line.append(...this.inColumns(row.map((each) => this.build(each, item))));
        element.lastChild.append(line);
      }
    }
    return element;
  }

  // Lanes beside the boxes stand at the edges of the group, where they run straight through all rows.
  inColumns(elements) {
    const isBox = (element) => element.className !== "lane";
    const [first, last] = [elements.findIndex(isBox), elements.findLastIndex(isBox)];
    const columns =
      first < 0
        ? [[], elements, []]
        : [elements.slice(0, first), elements.slice(first, last + 1), elements.slice(last + 1)];
    return columns.map((column) => make("div", {}, ...column));
  }

  box(item) {
    const lines = [
      make("b", {}, item.label),
      item.name ? make("span", {}, item.name) : null,
      item.detail ? make("small", {}, item.detail) : null,
    ];
    if (item.operation === undefined) return make("div", { class: "source" }, ...lines);
    const box = make(
      "button",
      { type: "button", class: "operation", tabindex: -1, onclick: () => this.chosen(item.operation) },
      ...lines,
    );
    box.style.setProperty("--family", this.families[item.family]);
    this.boxes.set(item.operation, box);
    if (!this.familiesDrawn.includes(item.family)) this.familiesDrawn.push(item.family);
    return box;
  }

  group(item) {
    const inside = make("div", { class: "inside" });
    if (!item.kind) return make("div", { class: "root" }, inside);
    this.groups.push(item);
    const title = make(
      "button",
      { type: "button", class: "fold", "aria-expanded": "true", onclick: () => this.toggle(item) },
      make("b", {}, item.name || item.kind),
      item.name ? make("span", {}, ` ${item.kind}`) : null,
      make("small", {}, item.detail.filter(Boolean).join(" · ")),
    );
    return make("div", { class: "group" }, title, inside);
  }

  // -------------------------------------------------------------------------------------------------- folding

  parentsOf(id) {
    const parents = [];
    for (let { parent } = this.items.get(id); parent; { parent } = this.items.get(parent.id)) parents.push(parent);
    return parents;
  }

  isFolded(item) {
    return this.items.get(item.id).element.classList.contains("folded");
  }

  // Whether that changes anything.
  fold(item, folded) {
    if (folded === this.isFolded(item)) return false;
    const { element } = this.items.get(item.id);
    element.classList.toggle("folded", folded);
    element.firstChild.setAttribute("aria-expanded", String(!folded));
    return true;
  }

  toggle(item) {
    const folded = !this.isFolded(item);
    this.byHand.set(item, folded);
    this.fold(item, folded);
    this.connect();
    this.mark();
  }

  foldAll(folded) {
    for (const item of this.groups) {
      const outermost = this.parentsOf(item.id).length === 1;
      const fold = folded && !outermost;
      this.byHand.set(item, fold);
      this.fold(item, fold);
    }
    this.connect();
    this.mark();
  }

  // A large network is unfolded only where the current step is, and where the reader wants it. Whether that changes
  // anything.
  follow(operation) {
    const current = new Set(this.parentsOf(Number(this.boxes.get(operation).dataset.id)));
    const changes = this.groups.map((item) => {
      const outermost = this.parentsOf(item.id).length === 1;
      return this.fold(item, this.byHand.get(item) ?? !(this.small || outermost || current.has(item)));
    });
    return changes.includes(true);
  }

  // -------------------------------------------------------------------------------------------------- the step

  // Show where the step is; `reached` says of an operation whether the walk has been there.
  show(operation, direction, reached) {
    Object.assign(this, { operation, direction, reached });
    if (this.follow(operation) || !this.connectedAt) this.connect(); // which takes a while in a large network
    this.mark();
    const box = this.visible(Number(this.boxes.get(operation).dataset.id));
    const [inner, outer] = [box.getBoundingClientRect(), this.container.getBoundingClientRect()];
    this.container.scrollTo({
      left: this.container.scrollLeft + inner.left - outer.left - (outer.width - inner.width) / 2,
      top: this.container.scrollTop + inner.top - outer.top - (outer.height - inner.height) / 2,
      behavior: matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden ? "auto" : "smooth",
    });
  }

  mark() {
    this.sheet
      .querySelectorAll(".current")
      .forEach((element) => element.classList.remove("current", "forward", "backward"));
    for (const [operation, box] of this.boxes) box.classList.toggle("ahead", !this.reached(operation));
    const element = this.visible(Number(this.boxes.get(this.operation).dataset.id));
    element.classList.add("current", this.direction);
    this.sheet.querySelectorAll("[aria-current]").forEach((box) => box.removeAttribute("aria-current"));
    this.boxes.get(this.operation).setAttribute("aria-current", "step");
    this.boxes.forEach((box, operation) => (box.tabIndex = operation === this.operation ? 0 : -1));
  }

  // The element of an item, or of the outermost folded group that hides it.
  visible(id) {
    const hiding = this.parentsOf(id)
      .filter((group) => this.isFolded(group))
      .at(-1);
    return this.items.get(hiding ? hiding.id : id).element;
  }

  // -------------------------------------------------------------------------------------------------- lines

  sizeOfSheet() {
    return `${this.sheet.offsetWidth}×${this.sheet.offsetHeight}`;
  }

  // All places are asked for before a line is put in, after which the browser would have to find them anew.
  connect() {
    this.connectedAt = this.sizeOfSheet();
    const origin = this.sheet.getBoundingClientRect();
    this.boxOf = (element) => {
      const { left, right, top, bottom } = element.getBoundingClientRect();
      return {
        left: left - origin.left,
        right: right - origin.left,
        top: top - origin.top,
        bottom: bottom - origin.top,
      };
    };
    const paths = this.pathsOf(this.root);
    this.lines.setAttribute("width", this.sheet.offsetWidth);
    this.lines.setAttribute("height", this.sheet.offsetHeight);
    this.lines.replaceChildren(arrowHead());
    for (const path of paths) this.lines.append(path);
  }

  // The lines in `group` and in what it shows of its own.
  pathsOf(group) {
    if (group.kind && this.isFolded(group)) return [];
    const paths = [];
    for (const [tail, head] of group.links) {
      const start = this.end(group, tail, "outputs");
      const end = this.end(group, head, "inputs");
      const bend = Math.min(26, (end.y - start.turn) / 2);
      const { lane, port } = end;
      const path = makeSvg("path", {
        class: "line",
        d: [
          `M${start.x} ${start.y}V${start.turn}`,
          `C${start.x} ${start.turn + bend} ${end.x} ${end.y - bend} ${end.x} ${end.y}`,
          lane ? `V${lane}` : "",
        ].join(""),
        "data-from": tail,
        "data-to": head,
      });
      if (!lane && !port) path.setAttribute("marker-end", "url(#arrow)");
      paths.push(path);
    }
    const inside = group.rows.flat().filter((item) => item.rows);
    return [...paths, ...inside.flatMap((item) => this.pathsOf(item))];
  }

  // Where a line of `group` leaves or enters the item with this id. A group in it is left and entered at its frame,
  // where the lane of the value is. From `y` a line runs straight to the end of the row at `turn`.
  end(group, id, side) {
    const { element, parent } = this.items.get(id);
    const leaving = side === "outputs";
    if (parent !== group) {
      const frame = this.boxOf(this.items.get(parent.id).element);
      const ports = parent[side];
      const lane = this.boxOf(element);
      const x = this.isFolded(parent)
        ? frame.left + ((frame.right - frame.left) * (ports.indexOf(id) + 1)) / (ports.length + 1)
        : (lane.left + lane.right) / 2;
      return { x, y: leaving ? frame.bottom : frame.top, turn: leaving ? this.rowOf(parent.id).bottom : 0 };
    }
    const box = this.boxOf(element);
    const x = (box.left + box.right) / 2;
    const port = group.kind && (leaving ? group.inputs : group.outputs).includes(id);
    if (port && leaving) return { x, y: box.top, turn: this.rowOf(id).bottom };
    if (port) return { x, y: this.boxOf(this.items.get(group.id).element).bottom, port: true };
    if (element.className === "lane")
      return { x, y: leaving ? box.bottom : box.top, turn: box.bottom, lane: leaving ? null : box.bottom };
    return { x, y: leaving ? box.bottom : box.top, turn: this.rowOf(id).bottom };
  }

  rowOf(id) {
    return this.boxOf(this.items.get(id).element.closest(".row"));
  }
}

function arrowHead() {
  const marker = makeSvg("marker", {
    id: "arrow",
    viewBox: "0 0 8 8",
    refX: 7,
    refY: 4,
    markerWidth: 6,
    markerHeight: 6,
    orient: "auto",
  });
  marker.append(makeSvg("path", { d: "M0 0L8 4L0 8Z", class: "head" }));
  return marker;
}
