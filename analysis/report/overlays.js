
// Tokens drawn over images. A letter a patch: + is kept, . is dropped, others are colours.

const LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const shared = JSON.parse(document.getElementById("pictures")?.textContent ?? "{}");

function make(tag, name, ...children) {
  const element = document.createElement(tag);
  element.className = name;
  element.append(...children);
  return element;
}

function patchesOf(letters, [rows, columns]) {
  const fills = {};
  let borders = "";
  [...letters].forEach((letter, i) => {
    const [x, y] = [i % columns, Math.floor(i / columns)];
    if (letter !== "+") fills[letter] = `${fills[letter] ?? ""}M${x} ${y}h1v1h-1z`;
    if (x + 1 < columns && letters[i + 1] !== letter) borders += `M${x + 1} ${y}v1`;
    if (y + 1 < rows && letters[i + columns] !== letter) borders += `M${x} ${y + 1}h1`;
  });
  const paths = Object.entries(fills).map(([letter, path]) => {
    const hue = shared.hues[LETTERS.indexOf(letter) % shared.hues.length];
    const look = letter === "." ? 'fill="#999" fill-opacity=".88"' : `fill="${hue}" fill-opacity=".55"`;
    return `<path d="${path}" ${look}/>`;
  });
  const line = `<path d="${borders}" fill="none" stroke="#fff" vector-effect="non-scaling-stroke"/>`;
  return paths.join("") + line;
}

// The picture with an overlay, if there is one. The grid of patches divides the picture evenly.
function tile(grid, picture, letters, words) {
  const [rows, columns] = grid;
  const box = make("div", "");
  const drawn = letters ? patchesOf(letters, grid) : "";
  const below = picture === null
    ? `<rect width="${columns}" height="${rows}" fill="#999"/>`
    : `<image href="${shared.pictures[picture]}" width="${columns}" height="${rows}" preserveAspectRatio="none"/>`;
  box.innerHTML = `<svg viewBox="0 0 ${columns} ${rows}" role="img">${below}${drawn}</svg>`;
  box.firstChild.setAttribute("aria-label", words);
  box.title = words;
  return box;
}

function answer(words) {
  const element = make("span", words.startsWith("✓") ? "right" : "wrong", words);
  element.title = words;
  return element;
}

function imageOf(panel, image) {
  const plain = make("div", "plain",
    tile(panel.grid, image.picture, null, image.title), make("b", "", image.title),
    make("span", "", image.label), ...image.plain.map(answer));
  const head = make("tr", "", make("th", ""), ...panel.methods.map(
    (method, column) => make("th", "", method, answer(image.answers[column]))));
  const rows = panel.blocks.map((block, row) => make("tr", "", make("th", "", `block ${block}`),
    ...panel.methods.map((method, column) => {
      const letters = image.overlays[column][row];
      const words = `${method}, ${image.title}, after block ${block}`;
      return letters ? make("td", "", tile(panel.grid, image.picture, letters, words)) : make("td", "");
    })));
  const scroll = make("div", "scroll",
    make("table", "", make("thead", "", head), make("tbody", "", ...rows)));
  scroll.style.setProperty("--methods", panel.methods.length);
  return make("article", "", plain, scroll);
}

async function drawOverlays(box) {
  const packed = Uint8Array.from(atob(box.firstChild.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const panel = await new Response(stream).json();
  let rule = "";
  for (const image of panel.images) {
    if (image.rule !== rule) box.append(make("h3", "", image.rule));
    rule = image.rule;
    box.append(imageOf(panel, image));
  }
}

// What a select hides is drawn once it is shown; all else at once, for it may be printed.
const shown = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      shown.unobserve(target);
      drawOverlays(target);
    }
  }
}, { rootMargin: "1000000px" });
document.querySelectorAll(".overlays").forEach((box) => shown.observe(box));
