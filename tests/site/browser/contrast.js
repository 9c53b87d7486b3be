// Called on a page by test_contrast.py, which says what the rule is.
() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const frame of document.querySelectorAll(".bk-frame")) frame.hidden = false;

  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const parse = (color) => { // any CSS color to [red, green, blue, alpha from 0 to 1]
    if (!known.has(color)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (color, ground) => {
    const [low, high] = [luminance(over(color, ground)), luminance(ground)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };

  const paint = (element, what) => { // the color of a fill or a stroke, and null where there is none
    const style = getComputedStyle(element);
    if (style[what] === "none" || style[what].startsWith("url")) return null;
    if (what === "stroke" && !parseFloat(style.strokeWidth)) return null;
    let [r, g, b, a] = parse(style[what]);
    a *= parseFloat(style[`${what}Opacity`]);
    for (let each = element; each.tagName !== "svg"; each = each.parentElement) {
      a *= parseFloat(getComputedStyle(each).opacity);
    }
    return a > 0 ? [r, g, b, a] : null;
  };
  const page = (element) => { // what the page has behind an element
    for (let each = element; each; each = each.parentElement) {
      const color = parse(getComputedStyle(each).backgroundColor);
      if (color[3] === 1) return color;
    }
    return [255, 255, 255, 1];
  };
  const isGlyph = (use) => { // matplotlib writes a letter's outline once, scaled from the font's units
    const target = document.getElementById((use.getAttribute("href") || "#").slice(1));
    return /scale\(0\.0156/.test(target?.getAttribute("transform") || "");
  };
  const middle = (element) => {
    if (element.tagName === "path" && element.getTotalLength() > 0) {
      const at = element.getPointAtLength(element.getTotalLength() / 2);
      return at.matrixTransform(element.getScreenCTM());
    }
    const box = element.getBoundingClientRect();
    return new DOMPoint(box.x + box.width / 2, box.y + box.height / 2);
  };

  const look = (svg, ground, texts, marks) => { // adds to texts and marks what a drawing has of them
    const shapes = []; // opaque areas, in the order in which they are drawn
    const behind = (point) => {
      let last = ground;
      for (const {element, color, box} of shapes) {
        if (point.x < box.left || point.x > box.right || point.y < box.top || point.y > box.bottom) continue;
        if (element.tagName === "path") {
          const inside = point.matrixTransform(element.getScreenCTM().inverse());
          if (!element.isPointInFill(inside)) continue;
        }
        last = color;
      }
      return last;
    };
    for (const element of svg.querySelectorAll("path, use, rect, circle, line, polyline, polygon, image")) {
      if (element.closest("clipPath") || /scale\(0\.0156/.test(element.getAttribute("transform") || "")) continue;
      const drawn = !element.closest("defs");
      const box = element.getBoundingClientRect();
      if (element.tagName === "image") {
        shapes.push({element, color: null, box});
        continue;
      }
      const fill = paint(element, "fill"), stroke = paint(element, "stroke");
      if (element.tagName === "use" && isGlyph(element)) {
        if (texts.has(element.parentElement) || !fill) continue;
        const at = drawn ? behind(middle(element)) : ground;
        if (at) texts.set(element.parentElement, {color: fill, contrast: contrast(fill, at)});
        continue;
      }
      const styled = element.hasAttribute("style") || element.parentElement.hasAttribute("style");
      if (element.tagName === "use" && !styled) continue; // a part that frames share
      const at = drawn && (fill || stroke) ? behind(middle(element)) : ground;
      if (fill && fill[3] === 1 && drawn && element.tagName !== "use") shapes.push({element, color: fill, box});
      if (!at) continue;
      const best = Math.max(...[fill, stroke].filter(Boolean).map((color) => contrast(color, at)));
      for (const [what, color] of Object.entries({fill, stroke})) {
        if (!color) continue;
        const name = color.slice(0, 3).join(" ");
        marks[what].set(name, Math.max(best, marks[what].get(name) || 0));
      }
    }
  };

  // parts that frames share are judged where they are shown: a label's box is part of the same drawing then
  const shared = new Set();
  for (let parts = true; parts;) {
    parts = false;
    for (const use of document.querySelectorAll("figure svg use:not([style])")) {
      const part = document.getElementById((use.getAttribute("href") || "#").slice(1));
      if (part?.tagName !== "g") continue;
      use.replaceWith(part.cloneNode(true));
      shared.add(part);
      parts = true;
    }
  }
  for (const part of shared) part.remove();

  // what a drawing only defines takes the ink where it is used, and is asked for its color where it is defined
  for (const svg of document.querySelectorAll("figure svg")) svg.setAttribute("fill", "currentColor");

  const found = [];
  for (const figure of document.querySelectorAll("figure.bk-figure, figure.bk-explore")) {
    if (!figure.querySelector("svg")) continue;
    const ground = page(figure);
    const texts = new Map(), marks = {fill: new Map(), stroke: new Map()};
    for (const svg of figure.querySelectorAll("svg")) look(svg, ground, texts, marks);
    const strongest = new Map();
    for (const kind of Object.values(marks)) {
      if (kind.size > 8) continue;
      for (const [name, value] of kind) strongest.set(name, Math.max(value, strongest.get(name) || 0));
    }
    found.push({
      figure: figure.id,
      texts: [...texts.values()].map(({color, contrast}) => [color.slice(0, 3).join(" "), contrast]),
      marks: [...strongest],
    });
  }
  return found;
}
