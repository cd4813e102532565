// Pieces of data. Browsers do not let a page read other files of a folder, but they do run scripts in it:
// every piece is a script that hands its name and base64 to `SparedExplorer.receive`.
"use strict";

const SparedExplorer = (() => {
  const MISSING = 255;
  const STEPS = 254;
  const KEPT = 60; // genes in memory
  const waiting = new Map(); // name of a piece -> {resolve, reject}
  const loading = new Map(); // name of a piece -> promise

  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  function receive(name, head, body) {
    waiting.get(name)?.resolve({ head: JSON.parse(atob(head)), base64: body });
    waiting.delete(name);
  }

  function load(name) {
    if (!loading.has(name)) {
      loading.set(name, new Promise((resolve, reject) => {
        waiting.set(name, { resolve, reject });
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => {
          script.remove();
          if (waiting.delete(name)) reject(new Error(`data/${name}.js holds no data`));
        };
        script.onerror = () => {
          script.remove();
          waiting.delete(name);
          loading.delete(name);
          reject(new Error(`data/${name}.js is missing: copy the whole folder`));
        };
        document.head.append(script);
      }));
      const genes = [...loading.keys()].filter((key) => key.startsWith("gene-"));
      if (genes.length > KEPT) loading.delete(genes[0]);
    }
    return loading.get(name);
  }

  /** Numbers from codes, NaN for spots without one. */
  function decoded(codes, [low, high]) {
    const values = new Float32Array(codes.length);
    for (let i = 0; i < codes.length; i++) {
      values[i] = codes[i] === MISSING ? NaN : low + (codes[i] / STEPS) * (high - low);
    }
    return values;
  }

  /** Values of a gene in all spots by panel (null where there are none), and which spots detected it. */
  async function gene(i, nSpots) {
    const { head, base64 } = await load(`gene-${i}`);
    const all = bytes(base64);
    let at = 0;
    const panels = head.ends.map((ends) => {
      if (ends === null) return null;
      at += nSpots;
      return decoded(all.subarray(at - nSpots, at), ends);
    });
    const bits = head.detected ? all.subarray(at) : null;
    const detected = bits && Uint8Array.from({ length: nSpots }, (_, spot) => (bits[spot >> 3] >> (spot & 7)) & 1);
    return { panels, detected };
  }

  /** Names and places of the spots of a section. Upward is positive, as in figures. */
  async function section(i) {
    const { head, base64 } = await load(`section-${i}`);
    const places = new Float32Array(bytes(base64).buffer);
    const n = head.names.length;
    return { names: head.names, x: places.slice(0, n), y: places.slice(n).map((value) => -value) };
  }

  /** A section's picture as an address that holds it, and its place: left, top, width, height. */
  async function image(i) {
    const { head, base64 } = await load(`image-${i}`);
    return { url: `data:image/jpeg;base64,${base64}`, place: head.place };
  }

  /** A number or the code of a category for every spot. */
  async function column(i) {
    const { head, base64 } = await load(`column-${i}`);
    return decoded(bytes(base64), head.ends ?? [0, STEPS]);
  }

  return { receive, load, gene, section, image, column };
})();
