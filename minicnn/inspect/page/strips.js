"use strict";
// A bar for each step, its height the logarithm of a norm, so that what vanishes or explodes is seen at a glance.

class Strip {
  // bars: [{norm, label}]; chosen(i) is called for a bar that is clicked.
  constructor(title, symbol, kind, bars, chosen) {
    Object.assign(this, { bars, symbol });
    const norms = bars.map((bar) => bar.norm).filter((x) => x > 0 && Number.isFinite(x));
    this.low = Math.floor(Math.log10(norms.reduce((a, b) => Math.min(a, b), Infinity)));
    this.high = Math.ceil(Math.log10(norms.reduce((a, b) => Math.max(a, b), 0)));
    if (!norms.length) [this.low, this.high] = [-1, 0];
    if (this.high === this.low) this.low -= 1;
    this.current = makeSvg("rect", { class: "current", y: 0, height: 100, width: 1 });
    this.svg = makeSvg("svg", {
      viewBox: `0 0 ${bars.length} 100`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    this.svg.append(this.current, ...this.decades(), ...bars.map((bar, i) => this.bar(bar, i)));
    this.caption = make("span", { class: "caption" });
    const scale = make("div", { class: "axis", "aria-hidden": "true" }, power(this.high), power(this.low));
    this.element = make(
      "section",
      { class: `strip ${kind}`, "aria-label": `${title}: ${this.inWords()}` },
      make("h2", {}, title, " ", this.caption),
      make("div", { class: "bars" }, scale, this.svg),
      ...this.legend(),
    );
    this.position = -1;
    const under = (event) => {
      const box = this.svg.getBoundingClientRect();
      return Math.max(0, Math.min(bars.length - 1, Math.floor(((event.clientX - box.left) / box.width) * bars.length)));
    };
    this.svg.addEventListener("click", (event) => chosen(under(event)));
    this.svg.addEventListener("pointermove", (event) => this.describe(under(event)));
    this.svg.addEventListener("pointerleave", () => this.describe(this.position));
  }

  bar({ norm }, i) {
    const broken = !Number.isFinite(norm);
    const share = (Math.log10(norm) - this.low) / (this.high - this.low);
    const height = broken ? 100 : norm === 0 ? 8 : 3 + 97 * share;
    const width = this.bars.length > 60 ? 0.9 : 0.76;
    return makeSvg("rect", {
      class: broken ? "broken" : norm === 0 ? "zero" : "bar",
      x: i + (1 - width) / 2,
      width,
      y: 100 - height,
      height,
    });
  }

  decades() {
    const step = Math.ceil((this.high - this.low) / 6);
    const lines = [];
    for (let power = this.low + step; power < this.high; power += step) {
      const y = 97 - (97 * (power - this.low)) / (this.high - this.low);
      lines.push(makeSvg("line", { class: "decade", x1: 0, x2: this.bars.length, y1: y, y2: y }));
    }
    return lines;
  }

  legend() {
    const [zero, broken] = this.counts();
    const notes = [];
    if (zero) notes.push(make("span", { class: "note zero" }, `${zero} exactly zero`));
    if (broken) notes.push(make("span", { class: "note broken" }, `${broken} not finite`));
    return notes.length ? [make("p", { class: "notes" }, ...notes)] : [];
  }

  counts() {
    return [
      this.bars.filter(({ norm }) => norm === 0).length,
      this.bars.filter(({ norm }) => !Number.isFinite(norm)).length,
    ];
  }

  inWords() {
    const [zero, broken] = this.counts();
    return `from 10 to the ${this.low} to 10 to the ${this.high}, ${zero} exactly zero, ${broken} not finite`;
  }

  show(position) {
    this.position = position;
    this.current.setAttribute("x", position);
    this.current.style.display = position < 0 ? "none" : "";
    this.describe(position);
  }

  describe(i) {
    this.caption.textContent = i < 0 ? "" : `${this.bars[i].label}: ${this.symbol} = ${rounded(this.bars[i].norm, 4)}`;
  }
}

function power(exponent) {
  return make("span", {}, "10", make("sup", {}, String(exponent).replace("-", MINUS)));
}
