// All forms: Enter submits a query, and a second click does not submit a form twice.

export function forms() {
  document.addEventListener("keydown", (event) => {
    const plain = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!plain || !event.target.matches?.("[data-enter-sends]")) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  });
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    // the page stays when a file is downloaded
    if (event.submitter?.hasAttribute("data-downloads")) return;
    const form = event.target;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "true";
  });
  // a page restored from the back/forward cache can be submitted again
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });
}
