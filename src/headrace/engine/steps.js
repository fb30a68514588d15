// What the steps of steps.py do. They stand before this as `const steps = […]`.
const path = text => text.split(".");
const inner = x => x !== null && typeof x === "object";
const has = (x, name) => Object.prototype.hasOwnProperty.call(x, name);
const get = (x, at) => path(at).reduce((y, name) => inner(y) && has(y, name) ? y[name] : undefined, x);
const set = (x, at, value) => {
  const names = path(at), last = names.pop();
  if (names.includes("__proto__") || last === "__proto__") throw new Error(`${at} is no attribute`);
  for (const name of names) {
    if (!has(x, name) || !inner(x[name])) x[name] = {};
    x = x[name];
  }
  x[last] = value;
};
const drop = (x, at) => {
  const names = path(at), last = names.pop();
  for (const name of names) {
    if (!inner(x) || !has(x, name)) return;
    x = x[name];
  }
  if (inner(x)) delete x[last];
};
const each = (value, change) => Array.isArray(value) ? value.map(one => each(one, change)) : change(value);
const text = (s, change) => x => typeof x === "string" ? change(x) : x;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const fits = (x, s) => {
  switch (s.operator) {
    case "exists": return x !== undefined && x !== null;
    case "missing": return x === undefined || x === null;
    case "=": return Array.isArray(x) && !Array.isArray(s.value) ? x.some(y => same(y, s.value)) : same(x, s.value);
    case "!=": return !fits(x, {operator: "=", value: s.value});
    case "contains": return typeof x === "string" && x.includes(String(s.value))
      || Array.isArray(x) && x.some(y => same(y, s.value));
  }
  if (typeof x !== typeof s.value || typeof x !== "number" && typeof x !== "string") return false;
  switch (s.operator) {
    case ">": return x > s.value;
    case ">=": return x >= s.value;
    case "<": return x < s.value;
    case "<=": return x <= s.value;
  }
};
const convert = (x, s) => {
  if (s.to === "string") return inner(x) ? JSON.stringify(x) : String(x);
  if (s.to === "number") {
    const found = typeof x === "boolean" ? Number(x) : typeof x === "string" && x.trim() === "" ? NaN : Number(x);
    if (Number.isFinite(found) && !inner(x)) return found;
  } else {
    const known = {true: true, "1": true, yes: true, false: false, "0": false, no: false};
    const name = String(x).trim().toLowerCase();
    if (has(known, name)) return known[name];
  }
  throw new Error(`${s.attribute}: ${JSON.stringify(x)} is no ${s.to}`);
};
const does = {
  keep: (r, s) => {
    const kept = {};
    for (const at of ["objectID", ...s.attributes]) {
      const value = get(r, at);
      if (value !== undefined) set(kept, at, value);
    }
    return kept;
  },
  remove: (r, s) => s.attributes.forEach(at => drop(r, at)),
  rename: (r, s) => { const x = get(r, s.from); if (x !== undefined) { drop(r, s.from); set(r, s.to, x); } },
  copy: (r, s) => { const x = get(r, s.from); if (x !== undefined) set(r, s.to, x); },
  set: (r, s) => set(r, s.attribute, s.value),
  default: (r, s) => { if ((get(r, s.attribute) ?? null) === null) set(r, s.attribute, s.value); },
  convert: (r, s) => {
    const x = get(r, s.attribute) ?? null;
    if (x !== null) set(r, s.attribute, convert(x, s));
  },
  case: (r, s) => s.attributes.forEach(at => {
    const how = {lower: x => x.toLowerCase(), upper: x => x.toUpperCase(), trim: x => x.trim()}[s.to];
    const x = get(r, at);
    if (x !== undefined) set(r, at, each(x, text(s, how)));
  }),
  replace: (r, s) => {
    const x = get(r, s.attribute);
    if (x !== undefined) set(r, s.attribute, each(x, text(s, y => y.split(s.find).join(s.by))));
  },
  split: (r, s) => { const x = get(r, s.attribute); if (typeof x === "string") set(r, s.attribute, x.split(s.separator)); },
  join: (r, s) => { const x = get(r, s.attribute); if (Array.isArray(x)) set(r, s.attribute, x.join(s.separator)); },
};
async function transform(record) {
  for (const s of steps) {
    if (s.type === "filter") { if (!fits(get(record, s.attribute), s)) return; }
    else record = does[s.type](record, s) ?? record;
  }
  return record;
}
