// Bootstrap's colours: the system's, until somebody chooses others; loaded before anything is painted.
{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const keep = (choice) => {
    try { if (choice) localStorage.setItem("theme", choice); else localStorage.removeItem("theme"); } catch { /* not kept */ }
  };
  let chosen = ["light", "dark"].includes(kept()) ? kept() : null;

  const names = { light: "Light colours", dark: "Dark colours" };
  const paint = () => {
    document.documentElement.dataset.bsTheme = chosen ?? (dark.matches ? "dark" : "light");
    for (const name of document.querySelectorAll("[data-theme-name]")) name.textContent = names[chosen] ?? "System colours";
  };
  paint();
  dark.addEventListener("change", paint);
  document.addEventListener("DOMContentLoaded", paint);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-theme-toggle]")) return;
    // system, the other one than the system's, the system's own, system
    const round = dark.matches ? [null, "light", "dark"] : [null, "dark", "light"];
    chosen = round[(round.indexOf(chosen) + 1) % round.length];
    keep(chosen);
    paint();
  });
}
