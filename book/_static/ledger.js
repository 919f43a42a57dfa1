// A filter above the ledger: by words and by verdict. Without it, all claims are shown.
addEventListener("DOMContentLoaded", function () {
  const rows = [...document.querySelectorAll("table.mcnn-ledger tbody tr")];
  if (!rows.length) return;
  const verdict = row => row.querySelector(".verdict").textContent.replace(/^\S+\s/, "");
  const found = [...new Set(rows.map(verdict))];
  const form = document.createElement("form");
  form.className = "mcnn-filter";
  form.setAttribute("aria-label", "filter the claims");
  form.innerHTML = '<label>words <input type="search"></label><label>verdict <select>'
    + '<option value="">all</option>' + found.map(v => "<option>" + v + "</option>").join("")
    + '</select></label><output></output>';
  const [words, choice] = form.querySelectorAll("input, select");
  const first = document.querySelector("table.mcnn-ledger").closest(".pst-scrollable-table-container")
    || document.querySelector("table.mcnn-ledger");
  first.previousElementSibling.before(form);
  function show() {
    const wanted = words.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(wanted.every(w => text.includes(w))
        && (!choice.value || verdict(row) === choice.value));
      shown += !row.hidden;
    }
    form.querySelector("output").textContent = shown + " of " + rows.length + " claims";
  }
  form.addEventListener("input", show);
  form.addEventListener("submit", e => e.preventDefault());
  show();
});
