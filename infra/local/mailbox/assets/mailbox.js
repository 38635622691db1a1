// Shows what arrives without a reload: draws the page again in the background, and when something changed
// exchanges the list and the counters, never what is being read.
const parts = ["list", "mail-count", "hook-count"];
const every = 2000; // milliseconds

async function refresh() {
  const answer = await fetch(location.origin + location.pathname + location.search);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (document.querySelector("main.empty") && !fresh.querySelector("main.empty")) {
    location.reload(); // the first one: there is nothing to disturb
    return;
  }
  for (const id of parts) {
    const [old, now] = [document.getElementById(id), fresh.getElementById(id)];
    if (!old || !now || old.innerHTML === now.innerHTML) continue;
    keepSelection(now);
    old.replaceChildren(...now.childNodes);
  }
}

function keepSelection(list) {
  const open = document.querySelector("#list [aria-current]")?.getAttribute("href");
  if (!open) return;
  for (const link of list.querySelectorAll("a")) {
    if (link.getAttribute("href") === open) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, every);
