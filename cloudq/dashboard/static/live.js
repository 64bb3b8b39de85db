// Puts the parts of a page in place that the server sends after every look, and asks before what cannot be undone.
"use strict";
(function () {
  document.addEventListener("submit", function (event) {
    var button = event.submitter;
    var question = (button && button.getAttribute("data-confirm")) || event.target.getAttribute("data-confirm");
    if (question && !window.confirm(question)) event.preventDefault();
  });

  document.addEventListener("change", function (event) {
    if (event.target.matches("[data-all]")) {
      document.querySelectorAll(event.target.getAttribute("data-all")).forEach(function (box) {
        box.checked = event.target.checked;
      });
    }
  });

  var live = document.querySelector("[data-live]");
  if (!live || !window.EventSource) return;
  var source = new EventSource(live.getAttribute("data-live"));

  // What somebody is typing into, pressing or selecting is not taken away from under their hands.
  function busy(element) {
    var selection = window.getSelection();
    return element.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, button:active")
      || (selection && !selection.isCollapsed && element.contains(selection.anchorNode));
  }

  source.addEventListener("parts", function (event) {
    var parts = JSON.parse(event.data);
    Object.keys(parts).forEach(function (id) {
      var element = document.getElementById(id);
      if (element && !busy(element)) element.innerHTML = parts[id];
    });
    document.documentElement.setAttribute("data-looks", String(1 + Number(document.documentElement.getAttribute("data-looks") || 0)));
  });
  source.onerror = function () {
    var status = document.querySelector("#status .pulse");
    if (status) { status.className = "pulse bad"; status.textContent = "no connection"; }
  };
  window.addEventListener("pagehide", function () { source.close(); });
})();
