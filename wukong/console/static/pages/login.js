import { html, useState } from "../../vendor/htm-preact.js";
import { post } from "../api.js";
import { t } from "../i18n.js";
import { Field, Form } from "../ui.js";

export function Login({ session, onLogin, tools }) {
  const [byName, setByName] = useState(false);
  const [error, setError] = useState(session.fault ?? "");
  const login = async (values) => {
    setError("");
    try {
      onLogin(await post("/web/login", values));
    } catch (failure) {
      setError(failure.message);
    }
  };
  const isOpen = session.open && !byName;
  return html`<div class="login">
    <main tabindex="-1">
      <div class="card">
        <div class="brand"><img src="static/icon.svg" alt="" width="32" height="32" /> <h1>${t("Wukong console")}</h1></div>
        <${Form} onSubmit=${login} key=${byName}>
          ${isOpen && html`<p>${t("No manager token is set, so the console is open to this machine only.")}</p>`}
          ${!isOpen && !byName && html`<${Field} label=${t("Manager token")} name="token" type="password" required autofocus autocomplete="current-password" hint=${t("managerToken for everything, manager.readonlyToken to look only.")} />`}
          ${byName && html`
            <${Field} label=${t("Name")} name="username" required autocomplete="username" />
            <${Field} label=${t("Password")} name="password" type="password" required autocomplete="current-password" />`}
          ${error && html`<div class="notice bad" role="alert">${t(error)}</div>`}
          <button type="submit" class="primary wide">${isOpen ? t("Open") : t("Log in")}</button>
        <//>
        <button class="quiet link" onClick=${() => { setError(""); setByName(!byName); }}>
          ${byName ? t("Log in another way") : t("Log in with an account")}
        </button>
      </div>
      ${tools}
    </main>
  </div>`;
}
