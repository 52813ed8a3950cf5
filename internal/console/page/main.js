addEventListener("hashchange", route);
addEventListener("keydown", keys);
let resizing;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => changed("all"), 120); });
setInterval(() => { if (store.activity.running || store.live !== "on") changed("pulse"); }, 1000);
route();
connect();
