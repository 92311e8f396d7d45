// Draw every chart from the specification that follows its place.
(function () {
  "use strict";
  const root = document.documentElement;
  const options = { mode: "vega-lite", renderer: "svg", actions: false };
  const drawn = Array.from(document.querySelectorAll(".chart"), (place) =>
    vegaEmbed(place, JSON.parse(place.nextElementSibling.textContent), options)
  );
  Promise.all(drawn).then(
    () => { root.dataset.charts = "drawn"; },
    (error) => { root.dataset.charts = "failed"; console.error(error); }
  );
})();
