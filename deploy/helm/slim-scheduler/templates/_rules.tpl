{{- /* Series of this release's pods, by the operator's labels. */ -}}
{{- define "slim.series" -}}
namespace={{ .Release.Namespace | quote }},pod=~"{{ include "slim.name" . }}-(gateway|triton)-.*"
{{- end -}}

{{- define "slim.queueSeconds" -}}
histogram_quantile(0.95, sum by (le) (rate(slim_gateway_queue_seconds_bucket{ {{- include "slim.series" . -}} }[1m])))
{{- end -}}

{{- define "slim.rules" -}}
{{- $series := include "slim.series" . -}}
groups:
- name: {{ include "slim.name" . }}
  rules:
  - record: slim_scheduler:queue_seconds:p95
    expr: {{ include "slim.queueSeconds" . | squote }}
    labels: {namespace: {{ .Release.Namespace }}, release: {{ .Release.Name }}}
  - alert: SlimSchedulerQueueIsLong
    expr: {{ printf "slim_scheduler:queue_seconds:p95{release=%q} > %v" .Release.Name (mulf 2 .Values.triton.autoscaling.queueSeconds) | squote }}
    for: 5m
    labels: {severity: warning}
    annotations: {summary: Requests wait in the gateways; more Tritons or narrower widths are needed}
  - alert: SlimSchedulerRequestsFail
    expr: {{ printf "sum(rate(slim_gateway_requests_total{%s,outcome!=\"ok\"}[5m])) > 0.01 * sum(rate(slim_gateway_requests_total{%s}[5m]))" $series $series | squote }}
    for: 5m
    labels: {severity: warning}
    annotations: {summary: More than one in a hundred requests is not answered}
  - alert: SlimSchedulerGatewayIsGone
    expr: {{ printf "absent(slim_gateway_in_flight{%s})" $series | squote }}
    for: 2m
    labels: {severity: critical}
    annotations: {summary: No gateway can be scraped}
  - alert: SlimSchedulerTritonIsDown
    expr: {{ printf "slim_controller_triton_up{%s} == 0" $series | squote }}
    for: 2m
    labels: {severity: warning}
    annotations: {summary: A controller can not observe its Triton}
  - alert: SlimSchedulerBackgroundWorkFails
    expr: {{ printf "increase(slim_background_failures_total{%s}[10m]) > 3" $series | squote }}
    labels: {severity: warning}
    annotations: {summary: Work in the background fails again and again; see the log}
{{- end -}}
