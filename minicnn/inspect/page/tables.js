"use strict";
// What is shown of a step as a table: the probabilities of a loss, and the examples that Python worked out.

// The classes of a cross-entropy: what softmax gives each, what the target wants, and the difference.
function drawScores(step, arrays) {
  const { scores, inputs } = step.operation;
  const [x, p, t] = [arrays[inputs[0].array], arrays[scores.p], arrays[scores.t]];
  const gradient = step.backward && step.backward.gradients.find(({ name }) => name === "input");
  const dx = gradient && arrays[gradient.array];
  const items = Math.min(p.kept[0], scores.sums.length);
  const difference = scores.sums.every((sum) => Math.abs(sum - 1) < 1e-6) ? "p − y" : "p Σy − y";
  const columns = ["class", "score x", "p = softmax x", "", "target y", difference, ...(dx ? ["∂x"] : [])];
  const body = make("tbody");
  for (let n = 0; n < items; n++) {
    if (p.shape[0] > 1)
      body.append(make("tr", {}, make("th", { colspan: columns.length, scope: "rowgroup" }, `item ${n}`)));
    for (let c = 0; c < p.kept[1]; c++) {
      const [probability, wanted] = [p.at([n, c]), t.at([n, c])];
      const bar = make("span", { class: "probability" });
      bar.style.width = `${100 * (Number.isFinite(probability) ? probability : 0)}%`;
      const cells = [
        String(c),
        exact(x.at([n, c]), x.code),
        exact(probability, p.code),
        make("span", { class: "track" }, bar),
        rounded(wanted, 4),
        rounded(probability * scores.sums[n] - wanted, 6),
      ];
      if (dx) cells.push(exact(dx.at([n, c]), dx.code));
      body.append(
        make(
          "tr",
          { class: wanted > 0.5 ? "target" : null },
          ...cells.map((cell, i) => make(i ? "td" : "th", {}, cell)),
        ),
      );
    }
  }
  const notes = [];
  if (items < p.shape[0]) notes.push(`Items ${items} to ${p.shape[0] - 1} are not shown here.`);
  if (p.kept[1] < p.shape[1]) notes.push(`Classes from ${p.kept[1]} on are not on this page.`);
  if (dx) {
    const g = arrays[step.backward.gradient];
    const arrived = g.size === 1 ? `g = ${rounded(g.values[0], 6)} arrived` : "g arrived";
    const share = rounded(Number(scores.share), 6);
    notes.push(`∂x = g · share · (${difference}), where ${arrived} and an item's share in the loss is ${share}.`);
  }
  return make(
    "section",
    { class: "scores" },
    make("h3", {}, "Probabilities and target"),
    make(
      "div",
      { class: "scroll" },
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))),
        body,
      ),
    ),
    notes.length ? make("p", {}, notes.join(" ")) : null,
  );
}

// The gradient's largest entry in numbers, as Python wrote it down.
function drawExample({ name, example }) {
  const rows = example.terms.map((cells) =>
    make("tr", {}, ...cells.map((cell) => make("td", {}, cell.replaceAll("-", MINUS)))),
  );
  const [others, sum] = example.others;
  if (others)
    rows.push(
      make(
        "tr",
        {},
        make("td", { colspan: 3 }, `and ${others.toLocaleString("en")} more that add up to`),
        make("td", {}, sum.replaceAll("-", MINUS)),
      ),
    );
  return make(
    "details",
    { class: "example" },
    make(
      "summary",
      {},
      "One entry in numbers: ",
      make("code", {}, entryName(`∂${name}`, example.index)),
      ", the largest",
    ),
    make("p", { class: "formula" }, example.formula),
    make(
      "div",
      { class: "scroll" },
      make(
        "table",
        {},
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            ...["where", "factors", "in numbers", "product"].map((title) => make("th", { scope: "col" }, title)),
          ),
        ),
        make("tbody", {}, ...rows),
        make(
          "tfoot",
          {},
          make("tr", {}, make("td", { colspan: 3 }, "sum"), make("td", {}, example.total.replaceAll("-", MINUS))),
        ),
      ),
    ),
    make("p", {}, `The network has ${example.value.replaceAll("-", MINUS)}. `, example.note),
  );
}
