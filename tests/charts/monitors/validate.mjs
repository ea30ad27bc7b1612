// Reads a JSON list of objects of monitoring.coreos.com/v1; prints a JSON list of what is wrong with each ("" for nothing).
import { readFileSync } from "node:fs";
import * as models from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const wrong = JSON.parse(readFileSync(0, "utf8")).map((body) => {
  try {
    new models[body.kind](body).validate();
    return "";
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(wrong));
