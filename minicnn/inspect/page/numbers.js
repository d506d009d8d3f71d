"use strict";
// How numbers are written, and how elements are made.

const MINUS = "−";

// The shortest decimal number that is read back as this very number, in its precision.
function exact(x, code) {
  if (!Number.isFinite(x)) return rounded(x);
  if (Object.is(x, -0)) return `${MINUS}0`;
  let text = String(x);
  for (let digits = 1; code === "f4" && digits <= 9; digits++) {
    const shorter = Number(x.toPrecision(digits));
    if (Math.fround(shorter) === x) {
      text = String(shorter);
      break;
    }
  }
  return text.replaceAll("-", MINUS);
}

// To a few digits, for tables.
function rounded(x, digits = 3) {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : `${MINUS}∞`;
  return String(Number(x.toPrecision(digits))).replaceAll("-", MINUS);
}

// In a cell of a table, seven letters at the most.
function short(x) {
  const size = Math.abs(x);
  if (size === 0 || !Number.isFinite(x) || (size >= 0.001 && size < 99999)) return rounded(x, size < 0.01 ? 2 : 3);
  return x.toExponential(1).replace("e+", "e").replaceAll("-", MINUS);
}

// A factor in a product or a term in a sum: negative ones stand in brackets.
function term(x, digits) {
  const text = rounded(x, digits);
  return text.startsWith(MINUS) ? `(${text})` : text;
}

function dimensions(shape) {
  return shape.join("×") || "one number";
}

function entryName(name, index) {
  return index.length ? `${name}[${index.join(", ")}]` : name;
}

// make("td", {class: "number"}, "1.5", another element …); text is text, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
