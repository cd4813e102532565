// Colour maps that people with any kind of colour vision can read, at equal distances; those between are mixed.
"use strict";

SparedExplorer.colours = (() => {
  const MAPS = {
    viridis:
      "440154 471164 482071 472e7c 443b84 3f4889 3a548c 34608d 2f6c8e 2a768e 26818e 228b8d " +
      "1f958b 1fa088 24aa83 2fb47c 42be71 58c765 70cf57 8bd646 a8db34 c5e021 e2e418 fde725",
    cividis:
      "00224e 002a61 003171 1c396f 2d416d 3a486c 45506c 50576c 5b606e 656870 6e6f73 777777 " +
      "817f78 8c8878 969077 a19975 ada272 b9ab6d c4b468 d0be62 dcc859 e8d24f f5dc41 fee838",
    magma:
      "000004 060518 110c2f 1e1149 2f1163 420f75 54137d 651a80 782281 892881 9b2e7f ad347c " +
      "bf3a77 d0416f e04c67 ed5a5f f66e5c fb835f fd9869 feac76 fec185 fed597 fde9aa fcfdbf",
    difference:
      "053061 114781 1d5fa2 2b73b3 3a87bd 4f9bc7 71b0d3 93c6de b1d5e7 cce2ef deebf2 eff3f5 " +
      "f8f1ed fbe5d8 fcd7c2 f8bfa4 f4a683 e8896c db6b55 cc4c44 bd2d35 a81529 870a24 67001f",
  };
  // Okabe and Ito's eight, then lighter and darker ones of the same hues
  const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#5a5a5a",
    "#7fb8d8", "#8a5f00", "#7fcfb9", "#7a3f63", "#23658a", "#ffc9a3", "#948b1e", "#b5b5b5"];
  const LEVELS = 256;
  const PALE = "#d5d9dd"; // spots without a value

  /** The colours of a map, `LEVELS` of them. */
  function palette(name) {
    const parts = MAPS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    return Array.from({ length: LEVELS }, (_, level) => {
      const place = (level / (LEVELS - 1)) * (parts.length - 1);
      const below = Math.min(Math.floor(place), parts.length - 2);
      const mixed = parts[below].map((one, i) => Math.round(one + (place - below) * (parts[below + 1][i] - one)));
      return `#${mixed.map((one) => one.toString(16).padStart(2, "0")).join("")}`;
    });
  }

  const category = (i) => CATEGORIES[i % CATEGORIES.length];

  /** Draw a map from left to right. */
  function draw(canvas, name) {
    const colours = palette(name);
    canvas.width = LEVELS;
    canvas.height = 1;
    const context = canvas.getContext("2d");
    colours.forEach((colour, i) => {
      context.fillStyle = colour;
      context.fillRect(i, 0, 1, 1);
    });
  }

  return { names: Object.keys(MAPS).filter((name) => name !== "difference"), palette, category, draw, PALE };
})();
