{{- /* Series of this release's pods, by the operator's labels. */ -}}
{{- define "slim.series" -}}
namespace={{ .Release.Namespace | quote }},pod=~"{{ include "slim.name" . }}-(gateway|triton)-.*"
{{- end -}}

{{- /* The rules of files/rules.yaml, over this release's series. */ -}}
{{- define "slim.rules" -}}
{{- $root := . -}}
{{- $rules := fromYaml (.Files.Get "files/rules.yaml") -}}
{{- range $group := $rules.groups -}}
{{- $_ := set $group "name" (include "slim.name" $root) -}}
{{- range $rule := $group.rules -}}
{{- $_ := set $rule "expr" (replace ",}" (printf ",%s}" (include "slim.series" $root)) $rule.expr) -}}
{{- if $rule.record -}}
{{- $_ := set $rule "labels" (dict "namespace" $root.Release.Namespace "release" $root.Release.Name) -}}
{{- end -}}
{{- if eq (toString $rule.alert) "SlimSchedulerQueueIsLong" -}}
{{- $_ := set $rule "expr" (printf "%s > %v" (regexReplaceAll " > [0-9.]+$" $rule.expr "") (mulf 2 $root.Values.triton.autoscaling.queueSeconds)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{- define "slim.queueSeconds" -}}
{{- $rules := fromYaml (include "slim.rules" .) -}}
{{- (index (index $rules.groups 0).rules 0).expr -}}
{{- end -}}
