"use strict";
// The arrays on this page. Of a large one only a corner may be kept: the first `kept` entries along each axis.

class Stored {
  constructor(entry) {
    this.shape = entry.shape;
    this.kept = entry.kept || entry.shape;
    this.dtype = entry.dtype;
    this.code = entry.code;
    const [norm, minimum, maximum, mean, zeros, nan, infinite] = entry.statistics.map(Number);
    this.statistics = { norm, minimum, maximum, mean, zeros, nan, infinite };
    this.text = entry.data;
    this.decoded = null;
  }

  get isCut() {
    return this.kept.some((n, axis) => n !== this.shape[axis]);
  }

  get size() {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  // The kept entries, the last axis running fastest.
  get values() {
    if (!this.decoded) {
      const letters = atob(this.text);
      const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
      this.decoded = this.code === "f8" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
      this.text = null;
    }
    return this.decoded;
  }

  // Where in `values` an entry is; -1 where it is not kept.
  place(index) {
    let place = 0;
    for (let axis = 0; axis < index.length; axis++) {
      if (index[axis] < 0 || index[axis] >= this.kept[axis]) return -1;
      place = place * this.kept[axis] + index[axis];
    }
    return place;
  }

  // An entry; undefined where it is not kept.
  at(index) {
    const place = this.place(index);
    return place < 0 ? undefined : this.values[place];
  }

  index(place) {
    const index = [];
    for (let axis = this.kept.length - 1; axis >= 0; axis--) {
      index.unshift(place % this.kept[axis]);
      place = Math.floor(place / this.kept[axis]);
    }
    return index;
  }

  // The largest of the absolute values that are finite, of the whole array; 0 where there is none.
  get extent() {
    const { minimum, maximum } = this.statistics;
    return Math.max(Math.abs(minimum), Math.abs(maximum)) || 0;
  }

  // The index of the kept entry with the largest absolute value, which has most to show; null where none is kept.
  get largest() {
    let found = -1;
    let size = -1;
    this.values.forEach((x, place) => {
      if (Math.abs(x) > size) [found, size] = [place, Math.abs(x)];
    });
    return found < 0 ? (this.values.length ? this.index(0) : null) : this.index(found);
  }

  get inWords() {
    const { norm, minimum, maximum, mean, zeros, nan, infinite } = this.statistics;
    const words = [];
    if (!Number.isNaN(mean)) {
      words.push(["norm", rounded(norm, 4)]);
      if (this.size > 1) {
        words.push(["min", rounded(minimum, 4)], ["max", rounded(maximum, 4)], ["mean", rounded(mean, 4)]);
      }
    }
    if (zeros) words.push(["zeros", `${rounded((100 * zeros) / this.size)} %`]);
    if (nan) words.push(["NaN", String(nan)]);
    if (infinite) words.push(["infinite", String(infinite)]);
    return words;
  }

  // What is missing of it, in words; empty where nothing is.
  get missing() {
    if (!this.isCut) return "";
    return `${dimensions(this.kept)} of ${dimensions(this.shape)} are on this page: the first along each axis`;
  }
}
