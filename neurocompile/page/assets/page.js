"use strict";
// Draws the page's plots when they come into sight, in the colours of its scheme.
const page = (() => {
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, showTips: false };
  const drawn = new Map();

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  const isColourKey = (key) => /colou?r$|colorscale$/.test(key);

  // Puts colours in for names that begin with "@", where Plotly expects colours and nowhere else.
  function resolved(value, inColour) {
    if (Array.isArray(value)) return value.map((item) => resolved(item, inColour));
    if (value !== null && typeof value === "object") {
      const copy = {};
      for (const [key, item] of Object.entries(value)) {
        copy[key] = resolved(item, isColourKey(key));
      }
      return copy;
    }
    const named = inColour && typeof value === "string" && value.startsWith("@");
    return named ? colour(value.slice(1)) : value;
  }

  const axisStyle = () => ({
    color: colour("ink"), gridcolor: colour("rule"), linecolor: colour("faint"),
    zerolinecolor: colour("faint"), automargin: true, fixedrange: true,
  });

  function layoutOf(place, given) {
    const narrow = place.clientWidth < 520;
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink"), size: narrow ? 11 : 13, family: "system-ui, sans-serif" },
      showlegend: true,
      legend: { orientation: "h", traceorder: "normal", x: 0, y: 1 + 6 / Math.max(60, (given.height || 300) - 100), yanchor: "bottom", xanchor: "left" },
      hoverlabel: { bgcolor: colour("raised"), font: { color: colour("ink") } },
      dragmode: false, autosize: true, separators: ". ",
      ...resolved(given, false),
      margin: { l: narrow ? 44 : 56, r: narrow ? 14 : 24, t: 44, b: 44, ...(given.margin || {}) },
    };
    for (const key of Object.keys(layout).concat(["xaxis", "yaxis"])) {
      if (!/^[xy]axis\d*$/.test(key)) continue;
      const axis = { ...axisStyle(), ...(layout[key] || {}) };
      axis.title = { standoff: 8, font: { size: narrow ? 11 : 13 }, ...(axis.title || {}) };
      layout[key] = axis;
    }
    return layout;
  }

  function draw(place, data, layout) {
    drawn.set(place, { data, layout });
    try {
      return Plotly.react(place, resolved(data, false), layoutOf(place, layout), config);
    } catch (problem) {
      place.textContent = "This plot could not be drawn; its numbers are in the table. (" + problem + ")";
      return Promise.resolve();
    }
  }

  function drawPlace(place) {
    if (drawn.has(place)) return;
    const figure = JSON.parse(document.getElementById(place.dataset.plot).textContent);
    draw(place, figure.data, figure.layout);
  }

  function redraw() {
    for (const [place, { data, layout }] of drawn) draw(place, data, layout);
  }

  function start() {
    const places = document.querySelectorAll("[data-plot]");
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        observer.unobserve(entry.target);
        drawPlace(entry.target);
      }
    }, { rootMargin: "500px" });
    places.forEach((place) => observer.observe(place));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    window.addEventListener("beforeprint", () => {
      document.documentElement.dataset.print = "yes";
      document.querySelectorAll("details.block").forEach((block) => { block.open = true; });
      redraw();
      places.forEach(drawPlace);
    });
    window.addEventListener("afterprint", () => {
      delete document.documentElement.dataset.print;
      redraw();
    });
    document.documentElement.dataset.ready = "yes";
  }

  return { start, draw };
})();
page.start();
