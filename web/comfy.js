// ComfyUI's page, as the pack's modules see it.

// @ts-ignore - the page serves it
import { app as pageApp } from "../../scripts/app.js";
// @ts-ignore - the page serves it
import { api as pageApi } from "../../scripts/api.js";

/** @type {import("./comfy_types").App} */
export const app = pageApp;

/** @type {import("./comfy_types").Api} */
export const api = pageApi;
