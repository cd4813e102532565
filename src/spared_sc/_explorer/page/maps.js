// Figures of Bokeh: for every section one source of spots and one pair of ranges, which all of its maps share.
// No text that comes from data goes into a figure: Bokeh would read formulas in it.
"use strict";

SparedExplorer.maps = (() => {
  const MANY = 3000; // spots, from which on the graphics card draws them
  const THINNED = 8000; // spots, from which on only every tenth is drawn while the picture moves, without a graphics card
  const UNSELECTED = 0.12; // opacity beside selected spots
  const INK = "#1c2126";

  /** Whether a graphics card draws what WebGL is asked to: a program that stands in for one is slower than a plain canvas. */
  function hasGraphicsCard() {
    const context = document.createElement("canvas").getContext("webgl");
    if (!context) return false;
    const names = context.getExtension("WEBGL_debug_renderer_info");
    const name = context.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : context.RENDERER);
    return !/swiftshader|llvmpipe|software|basic render/i.test(name);
  }

  const byCard = hasGraphicsCard();

  /** The maps of one section. `spots` are its names and places, `image` may be null. */
  class SectionMaps {
    constructor(section, spots, image, events) {
      Object.assign(this, { section, spots, image, events, figures: [] });
      const [left, right, top, bottom] = section.window;
      this.whole = [left, right, -bottom, -top];
      this.x = new Bokeh.Range1d({ start: left, end: right });
      this.y = new Bokeh.Range1d({ start: -bottom, end: -top });
      const none = new Float32Array(spots.x.length);
      this.source = new Bokeh.ColumnDataSource({ data: { x: spots.x, y: spots.y, mark: none } });
      this.under = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } }); // the spot under the pointer
      this.source.selected.properties.indices.change.connect(() => events.select(this));
    }

    get selected() {
      return this.source.selected.indices;
    }

    set selected(indices) {
      this.source.selected.indices = indices;
    }

    get ratio() {
      const [left, right, low, high] = this.whole;
      return (high - low) / (right - left);
    }

    /** New columns for the maps: one array for each, and which spots to outline. */
    show(columns, mark) {
      const data = { x: this.spots.x, y: this.spots.y, mark };
      columns.forEach((values, i) => (data[`v${i}`] = values));
      this.source.data = data;
    }

    /** A figure of column `i`, in an element. */
    add(i, mapper, outlined, width, look, element) {
      const figure = new Bokeh.Plotting.Figure({
        x_range: this.x, y_range: this.y, x_axis_location: null, y_axis_location: null, toolbar_location: null,
        frame_width: Math.round(width), frame_height: Math.round(width * this.ratio), min_border: 0,
        outline_line_color: null, tools: [], lod_threshold: THINNED,
        output_backend: byCard && this.spots.x.length > MANY ? "webgl" : "canvas",
      });
      figure.xgrid.grid_line_color = null;
      figure.ygrid.grid_line_color = null;
      const picture = this.image && this.#addImage(figure, look);
      const spots = this.#addSpots(figure, i, mapper, outlined, look);
      this.#addRing(figure);
      const tools = this.#addTools(figure, spots, element);
      this.figures.push({ figure, element, picture, spots, tools });
    }

    #addImage(figure, look) {
      const [left, top, width, height] = this.image.place;
      return figure.image_url({
        url: { value: this.image.url }, x: { value: left }, y: { value: -top }, w: { value: width }, h: { value: height },
        anchor: "top_left", global_alpha: { value: look.image },
      });
    }

    #addSpots(figure, i, mapper, outlined, look) {
      const style = {
        source: this.source, x: { field: "x" }, y: { field: "y" }, radius: { value: this.#radius(look) },
        fill_color: { field: `v${i}`, transform: mapper }, fill_alpha: { value: look.spots },
        line_color: { value: INK }, line_width: { value: 1 }, line_alpha: outlined ? { field: "mark" } : { value: 0 },
        nonselection_fill_alpha: { value: UNSELECTED * look.spots }, nonselection_line_alpha: { value: 0 },
      };
      // Squares as polygons of four corners, which a lasso can select.
      return this.section.square ? figure.ngon({ ...style, n: { value: 4 }, angle: { value: Math.PI / 4 } }) : figure.circle(style);
    }

    /** From the middle of a spot to its edge, or to a corner of a square. */
    #radius(look) {
      return (this.section.size / 2) * look.size * (this.section.square ? Math.SQRT2 : 1);
    }

    /** A ring around the spot under the pointer, on a layer of its own: the spots are not drawn anew. */
    #addRing(figure) {
      const ring = figure.circle({
        source: this.under, x: { field: "x" }, y: { field: "y" }, radius: { value: 0.75 * this.section.size },
        fill_alpha: { value: 0 }, line_color: { value: INK }, line_width: { value: 2 },
      });
      ring.level = "overlay";
    }

    #addTools(figure, spots, element) {
      const pan = new Bokeh.PanTool();
      const lasso = new Bokeh.LassoSelectTool({ renderers: [spots], continuous: false });
      const wheel = new Bokeh.WheelZoomTool({ zoom_on_axis: false });
      const hover = new Bokeh.HoverTool({
        renderers: [spots], tooltips: null, mode: "mouse",
        callback: {
          execute: (_, { geometry, index }) => {
            const frame = element.getBoundingClientRect();
            this.#point(index.indices[0], frame.left + geometry.sx, frame.top + geometry.sy);
          },
        },
      });
      figure.add_tools(pan, lasso, wheel, hover);
      figure.toolbar.active_scroll = wheel;
      element.addEventListener("mouseleave", () => this.#point(undefined, 0, 0));
      return { pan, lasso };
    }

    #point(spot, x, y) {
      if (spot !== this.pointed) {
        this.pointed = spot;
        const at = spot === undefined ? [] : [spot];
        this.under.data = { x: at.map((one) => this.spots.x[one]), y: at.map((one) => this.spots.y[one]) };
      }
      this.events.point(this, spot, x, y);
    }

    setTool(name) {
      for (const { tools } of this.figures) {
        for (const [kind, tool] of Object.entries(tools)) tool.active = kind === name;
      }
    }

    setLook(look) {
      for (const { picture, spots } of this.figures) {
        if (picture) picture.glyph.global_alpha = { value: look.image };
        for (const glyph of [spots.glyph, spots.selection_glyph, spots.nonselection_glyph]) {
          glyph.radius = { value: this.#radius(look) };
          glyph.fill_alpha = { value: glyph === spots.nonselection_glyph ? UNSELECTED * look.spots : look.spots };
        }
      }
    }

    setWindow([left, right, low, high]) {
      this.x.setv({ start: left, end: right });
      this.y.setv({ start: low, end: high });
    }

    zoom(factor) {
      const part = ({ start, end }) => {
        const [middle, half] = [(start + end) / 2, (end - start) / 2 / factor];
        return [middle - half, middle + half];
      };
      this.setWindow([...part(this.x), ...part(this.y)]);
    }

    /** Look further to the right and up, by tenths of what is seen. */
    move(right, up) {
      const part = ({ start, end }, tenths) => [start, end].map((one) => one + (tenths * (end - start)) / 10);
      this.setWindow([...part(this.x, right), ...part(this.y, up)]);
    }

    clear() {
      this.figures = [];
    }
  }

  let shown = null; // the document of all figures

  /** Remove all figures from the page. */
  function clear(sections) {
    shown?.clear();
    shown = null;
    for (const section of sections) section.clear();
  }

  /** Draw the figures of some sections, each in its element. */
  async function draw(sections) {
    shown = new Bokeh.Document();
    shown.config.notifications = null; // nothing beside the figures
    const figures = sections.flatMap((section) => section.figures);
    for (const { figure } of figures) shown.add_root(figure);
    const views = await Bokeh.embed.add_document_standalone(shown, document.body, figures.map(({ element }) => element));
    for (const made of figures) made.view = views.get(made.figure);
  }

  /** A mapper from values to colours; spots without a value are pale. */
  const mapper = (colours, low, high, missing) =>
    new Bokeh.LinearColorMapper({ palette: colours, low, high, nan_color: missing });

  return { SectionMaps, mapper, clear, draw };
})();
