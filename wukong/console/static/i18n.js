// Texts are written in English where they are used; zh.js has the Chinese ones.
import zh from "./zh.js";

const KEY = "wukong.language";

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export let language = stored() || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

function apply() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

export function setLanguage(wanted) {
  language = wanted;
  try {
    localStorage.setItem(KEY, wanted);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  apply();
}

/** The text in the page's language; {name} is replaced by what `values` has under it. */
export function t(text, values = {}) {
  const found = language === "zh" ? (zh[text] ?? text) : text;
  return found.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export const locale = () => (language === "zh" ? "zh-CN" : "en-GB");

apply();
