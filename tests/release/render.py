"""Lints and renders a Helm chart with Helm's own library.

Reads {"chart": PATH, "values": {…}, "namespace": NAME} from standard input, and prints {"errors": […], "manifests": {…}}.
"""

import json
import sys

import helm_python as helm

wanted = json.load(sys.stdin)
errors, manifests = [], {}
try:
    findings = helm.lint(wanted["chart"], wanted["values"])
    # 1 is a recommendation, such as a picture for the chart.
    errors += [str(message) for message in findings["messages"] if message["severity"] > 1] + findings["errors"]
    with helm.Chart.load(wanted["chart"]) as chart:
        chart.validate_schema(wanted["values"])
        manifests = chart.render(wanted["values"], name="braid", namespace=wanted["namespace"])
except helm.HelmError as error:
    errors.append(str(error))
print(json.dumps({"errors": errors, "manifests": manifests}))
