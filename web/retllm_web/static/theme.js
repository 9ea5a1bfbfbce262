// Colour mode: that of the system until the user chooses one. Loaded before the first paint.
{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const load = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const save = (choice) => {
    try { if (choice) localStorage.setItem("theme", choice); else localStorage.removeItem("theme"); } catch { /* not stored */ }
  };
  let chosen = ["light", "dark"].includes(load()) ? load() : null;

  const names = { light: "Light colours", dark: "Dark colours" };
  const apply = () => {
    document.documentElement.dataset.bsTheme = chosen ?? (dark.matches ? "dark" : "light");
    for (const name of document.querySelectorAll("[data-theme-name]")) name.textContent = names[chosen] ?? "System colours";
  };
  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-theme-toggle]")) return;
    // cycle: system, opposite of the system, same as the system
    const cycle = dark.matches ? [null, "light", "dark"] : [null, "dark", "light"];
    chosen = cycle[(cycle.indexOf(chosen) + 1) % cycle.length];
    save(chosen);
    apply();
  });
}
