// The frame around the pages: login, navigation, language and theme. The address behind # says what is shown.
import { html, render, useEffect, useState } from "../vendor/htm-preact.js";
import { get, post, whenLoggedOut } from "./api.js";
import { language, setLanguage, t } from "./i18n.js";
import { connect, forget, useLive } from "./live.js";
import { DialogHost, ToastHost } from "./ui.js";
import { Channels } from "./pages/channels.js";
import { Cluster } from "./pages/cluster.js";
import { Connections } from "./pages/connections.js";
import { Explain } from "./pages/explain.js";
import { Login } from "./pages/login.js";
import { Overview } from "./pages/overview.js";
import { Users } from "./pages/users.js";
import { Webhooks } from "./pages/webhooks.js";

const PAGES = [
  ["overview", "Overview", Overview],
  ["cluster", "Nodes and slots", Cluster],
  ["channels", "Channels", Channels],
  ["users", "Users", Users],
  ["explain", "Explain", Explain],
  ["webhooks", "Webhooks", Webhooks],
  ["connections", "Connections", Connections],
];

const THEME = "wukong.theme";

function readPlace() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: path || "overview", query: Object.fromEntries(new URLSearchParams(query)) };
}

function storedTheme() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null;
  }
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function App() {
  const [place, setPlace] = useState(readPlace());
  const [session, setSession] = useState(null);
  const [chosen, setChosen] = useState(storedTheme());
  const [isDark, setDark] = useState(systemDark.matches);
  const [, setTongue] = useState(language);
  const theme = chosen ?? (isDark ? "dark" : "light");
  // At once, not as an effect: those of charts come first, and read the colours.
  document.documentElement.dataset.theme = theme;

  const look = async () => {
    try {
      setSession(await get("/web/session"));
    } catch (error) {
      setSession({ user: null, fault: error.message });
    }
  };

  useEffect(() => {
    const onHash = () => {
      setPlace(readPlace());
      document.querySelector("main")?.focus({ preventScroll: true });
      scrollTo(0, 0);
    };
    const onTheme = (event) => setDark(event.matches);
    addEventListener("hashchange", onHash);
    systemDark.addEventListener("change", onTheme);
    whenLoggedOut(look);
    look();
    return () => {
      removeEventListener("hashchange", onHash);
      systemDark.removeEventListener("change", onTheme);
    };
  }, []);

  useEffect(() => {
    if (!session?.user) return undefined;
    let over = false;
    const again = () =>
      setTimeout(async () => {
        if (!over) await look();
        if (!over) connect(again);
      }, 2000);
    connect(again);
    return () => {
      over = true;
      forget();
    };
  }, [session?.user]);

  useEffect(() => {
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [place.page, session?.user]);

  const current = PAGES.find(([name]) => name === place.page) ?? PAGES[0];
  useEffect(() => {
    document.title = session?.user ? `${t(current[1])} · Wukong` : "Wukong";
  });

  if (!session) return null;

  const switchLanguage = () => {
    setLanguage(language === "zh" ? "en" : "zh");
    setTongue(language);
  };
  const switchTheme = () => {
    const next = theme === "dark" ? "light" : "dark";
    setChosen(next);
    try {
      localStorage.setItem(THEME, next);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
  };
  const logOut = async () => setSession(await post("/web/logout"));
  const tools = html`<div class="tools">
    <button class="quiet" onClick=${switchLanguage} lang=${language === "zh" ? "en" : "zh-CN"}>${language === "zh" ? "English" : "中文"}</button>
    <button class="quiet" onClick=${switchTheme}>${theme === "dark" ? t("Light") : t("Dark")}</button>
    ${session.user && html`<button class="quiet" onClick=${logOut}>${t("Log out")}</button>`}
  </div>`;

  if (!session.user) return html`<${Login} session=${session} onLogin=${setSession} tools=${tools} />`;

  const Page = current[2];
  const isAdmin = session.role === "admin";
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>${t("To the content")}</a>
    <div class="frame">
      <header class="side">
        <div class="brand"><img src="static/icon.svg" alt="" width="24" height="24" /> <span>Wukong</span></div>
        <nav aria-label=${t("Pages")}>
          ${PAGES.map(([name, title]) => html`<a href=${`#/${name}`} aria-current=${current[0] === name ? "page" : undefined}>${t(title)}</a>`)}
        </nav>
        <div class="foot">
          <${Who} session=${session} />
          ${tools}
        </div>
      </header>
      <main tabindex="-1" id="main">
        <h1>${t(current[1])}</h1>
        <${Page} key=${current[0]} query=${place.query} isAdmin=${isAdmin && (current[0] !== "cluster" || session.cluster)} theme=${theme} />
      </main>
    </div>
    <${DialogHost} />
    <${ToastHost} />`;
}

function Who({ session }) {
  const { connected } = useLive();
  return html`<div class="who">
    <span class=${`dot ${connected ? "good" : "bad"}`} aria-hidden="true"></span>
    <span>${connected ? t("Live from node {n}", { n: session.node }) : t("No connection to node {n}", { n: session.node })}</span>
    <span class="muted">${session.role === "admin" ? t("Admin") : t("Read only")} · ${session.user}</span>
  </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
