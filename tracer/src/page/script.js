'use strict';
// Tables sort by their headings and show the rows that have the words that are typed.
for (const table of document.querySelectorAll('table[data-sorts]')) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const said = document.createElement('span');
  said.setAttribute('role', 'status');
  const name = table.caption.textContent;
  const raw = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent;
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, at) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute('aria-sort', 'none');
    const words = head.classList.contains('word');
    button.addEventListener('click', () => {
      const was = head.getAttribute('aria-sort');
      const up = was === 'none' ? words : was === 'descending';
      for (const other of heads) other.setAttribute('aria-sort', 'none');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const order = words
        ? (a, b) => raw(a, at).localeCompare(raw(b, at))
        : (a, b) => raw(a, at) - raw(b, at);
      // What is not known comes last, whichever way.
      const known = (row) => row.cells[at].dataset.v !== '';
      rows.sort((a, b) => known(b) - known(a) || (up ? order(a, b) : order(b, a)));
      body.append(...rows);
      said.textContent = `sorted by ${button.textContent}, ${up ? 'smallest' : 'largest'} first`;
    });
  });
  const tools = document.createElement('p');
  tools.className = 'tools';
  const label = document.createElement('label');
  const input = document.createElement('input');
  input.type = 'search';
  input.setAttribute('aria-label', `Filter: ${name}`);
  label.append('Filter ', input);
  input.addEventListener('input', () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    said.textContent = `${shown} of ${rows.length} rows`;
  });
  if (rows.length > 5) tools.append(label);
  tools.append(said);
  (table.closest('.wide') ?? table).before(tools);
}
