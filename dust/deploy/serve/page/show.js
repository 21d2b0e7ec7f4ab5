// What is drawn: bars, the timeline, the csv. Every text of a file or a class is set as text, never as markup.
"use strict";

export const percent = (value) => `${(100 * value).toFixed(1)} %`;
export const NONE = "none of these";
export const FEW = 8; // classes that are listed until all are asked for

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function clock(seconds) {
  const tenths = Math.round(10 * Math.max(0, seconds));
  const whole = Math.floor(tenths / 10);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}.${tenths % 10}`;
}

// pairs: [name, probability]
export function drawBars(list, pairs) {
  const rows = [...list.children];
  pairs.forEach(([name, value], place) => {
    let row = rows[place];
    if (!row) {
      row = list.appendChild(element("li"));
      row.append(element("span", "", "name"), element("span", "", "value"), element("div", "", "bar"));
      row.lastChild.setAttribute("aria-hidden", "true");
      row.lastChild.append(element("b"));
    }
    const [label, number, bar] = row.children;
    label.textContent = label.title = name;
    number.textContent = percent(value);
    bar.firstChild.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
  });
  rows.slice(pairs.length).forEach((row) => row.remove());
}

// A colour for each class, the same all day: neighbours in the list lie far apart.
export function hueOf(label, classes) {
  const place = classes.indexOf(label);
  const number = place >= 0 ? place : [...label].reduce((sum, one) => (31 * sum + one.codePointAt(0)) % 997, 7);
  return Math.round((number * 137.508 + 165) % 360);
}

// segments: {start, end, label, confidence}; they fill the line from `from` to `from + duration`.
export function drawLine(line, segments, from, duration, classes) {
  const length = duration || 1;
  const rows = [...new Set(segments.map((one) => one.row ?? 0))].sort((a, b) => a - b); // one for each question
  line.style.height = `${2 * Math.max(1, rows.length)}rem`;
  line.replaceChildren(...segments.map((one) => {
    const part = element("span", one.label);
    part.style.top = `${2 * rows.indexOf(one.row ?? 0)}rem`;
    part.title = `${clock(one.start)} to ${clock(one.end)}: ${one.label}`;
    part.style.left = `${(100 * (Math.max(one.start, from) - from)) / length}%`;
    part.style.width = `${(100 * (one.end - Math.max(one.start, from))) / length}%`;
    part.style.setProperty("--hue", hueOf(one.label, classes));
    if (one.label === NONE) part.className = "none";
    return part;
  }), element("i"));
  const labels = [...new Set(segments.map((one) => one.label))];
  const named = labels.slice(0, 5).join(", ") + (labels.length > 5 ? ", ..." : "");
  line.setAttribute("aria-label", `Timeline of ${segments.length} segments: ${named}`);
}

export function moveCursor(line, share) {
  const cursor = line.querySelector("i");
  if (cursor) cursor.style.left = `${100 * Math.min(1, Math.max(0, share))}%`;
}

// The window that answers for a moment: the one whose middle lies nearest.
export function windowAt(windows, seconds) {
  let best = null;
  let least = Infinity;
  for (const one of windows) {
    const far = Math.abs((one.start + one.end) / 2 - seconds);
    if (far < least) [best, least] = [one, far];
  }
  return best;
}

// What is so at a moment, of each question; behind the end what was so last.
export function labelAt(segments, seconds) {
  const end = Math.max(...segments.map((one) => one.end));
  const now = Math.min(seconds, end - 1e-6);
  return segments.filter((one) => one.start <= now && now < one.end).map((one) => one.label).join(", ");
}

// ---- csv, as `dust predict` writes it: no cell is a formula, and nothing in it steers a terminal

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const FORMULA = /^(?:'*[=+\-@\t\r]|'+\\[tr])/;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function hidden(char) {
  const code = char.charCodeAt(0);
  return SHORT[char] ?? (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`);
}

export function csvCell(value) {
  if (typeof value === "number") return String(value);
  const seen = value.replace(UNSEEN, hidden);
  const safe = FORMULA.test(value) && !NUMBER.test(value) ? `'${seen}` : seen;
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// answers: predictions of the server. Those that could not be read have their reason in a last column.
export function csvText(answers) {
  const names = [...new Set(answers.flatMap((one) => Object.keys(one.probabilities ?? {})))];
  const failed = answers.some((one) => one.error);
  const head = ["id", "path", "label", "prediction", ...names.map((name) => `prob_${name}`), ...(failed ? ["error"] : [])];
  const rows = answers.map((one) => [
    one.id, one.path, "", one.label ?? "", ...names.map((name) => one.probabilities?.[name] ?? ""), ...(failed ? [one.error ?? ""] : []),
  ]);
  return [head, ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}
