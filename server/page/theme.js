// Light, dark or the system's. No module, so that it runs before anything is painted.
(() => {
  const THEMES = ["auto", "light", "dark"];
  const STORED = "loopserve.theme";
  const root = document.documentElement;

  /** @returns {string} the choice of an earlier visit; browsers may forbid storage */
  function stored() {
    try {
      const theme = localStorage.getItem(STORED);
      return THEMES.includes(theme) ? theme : "auto";
    } catch {
      return "auto";
    }
  }

  /** @param {string} theme */
  function keep(theme) {
    try {
      localStorage.setItem(STORED, theme);
    } catch {
      // It lasts as long as the page, then.
    }
  }

  root.dataset.theme = stored();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = `Theme: ${root.dataset.theme}`; };
    button.addEventListener("click", () => {
      root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
      keep(root.dataset.theme);
      show();
      document.dispatchEvent(new Event("themechange"));
    });
    show();
  });
})();
