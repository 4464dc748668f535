// Numbers and reasons as people read them. What is unknown is a dash, never 0.

const UNITS = [["_per_s", (value) => `${quantity(value)}/s`], ["_bytes", (value) => bytes(value)], ["_ratio", (value) => part(value)], ["_s", (value) => seconds(value)], ["_w", (value) => `${quantity(value)} W`], ["_j", (value) => `${quantity(value)} J`]];
const isKnown = (value) => typeof value === "number" && Number.isFinite(value);

// Three digits, or all of a whole number.
export function quantity(value) {
  if (!isKnown(value)) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(Math.abs(value) >= 100 ? 3 : 2 + (Math.abs(value) >= 10))).toLocaleString("en", { maximumSignificantDigits: 3 });
}

export function rate(value) {
  if (!isKnown(value)) return "–";
  if (value > 0 && value < 0.05) return "<0.1";
  return value >= 99.5 ? Math.round(value).toLocaleString("en") : String(Number(value.toFixed(1)));
}

export function seconds(value) {
  if (!isKnown(value)) return "–";
  for (const [most, unit, name] of [[1e-3, 1e-6, "µs"], [1, 1e-3, "ms"], [120, 1, "s"], [7200, 60, "min"]]) {
    if (Math.abs(value) < most) return value === 0 ? "0" : `${Number((value / unit).toPrecision(3))} ${name}`;
  }
  return `${Number((value / 3600).toPrecision(3))} h`;
}

export function age(value) {
  const [unit, name] = value < 120 ? [1, "s"] : value < 7200 ? [60, "min"] : [3600, "h"];
  return value < 1 ? "just now" : `${Math.round(value / unit)} ${name} ago`;
}

export function part(value) {
  if (!isKnown(value)) return "–";
  const percent = value * 100;
  return `${percent === 0 || percent >= 99.95 ? Math.round(percent) : percent < 0.1 ? "<0.1" : percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

export function bytes(value) {
  if (!isKnown(value)) return "–";
  for (const [power, unit] of [[30, "GiB"], [20, "MiB"], [10, "KiB"]]) {
    if (value >= 2 ** power) return `${Number((value / 2 ** power).toPrecision(3))} ${unit}`;
  }
  return `${value} B`;
}

export const titled = (text) => { const words = String(text).replaceAll(/[_-]/g, " "); return words.charAt(0).toUpperCase() + words.slice(1); };

export const actionWords = (action) => [String(action.kind).replaceAll(/[_-]/g, " "), action.model, action.reason && `(${String(action.reason).replaceAll(/[_-]/g, " ")})`].filter(Boolean).join(" ");

// The numbers behind a decision, each in the unit that ends its name.
export function numbersWords(numbers) {
  const words = Object.entries(numbers ?? {}).map(([name, value]) => {
    const [end, say] = UNITS.find(([unit]) => name.endsWith(unit)) ?? ["", quantity];
    return `${name.slice(0, name.length - end.length).replaceAll("_", " ")} ${say(value)}`;
  });
  return words.length ? `: ${words.join(", ")}` : "";
}
