{{- /*
The sets of Tritons as JSON, {"sets": [...]}: one for each of triton.groups, or a single one. Of each:
  name       of the StatefulSet or DaemonSet, of its headless service, and so of the host
  group      the group's name; empty without groups
  server     what it is called in fleet.yaml
  config     name of its controller's ConfigMap
  triton     the values under triton, with the group's own over them
  deviceClass, and gpuKey, the key that gpu is from
  gpu        the device that its controller watches; empty: the first one
*/ -}}
{{- define "slim.sets" -}}
{{- $name := include "slim.name" . -}}
{{- $common := omit .Values.triton "groups" -}}
{{- if and .Values.triton.groups (ne $common.autoscaling.kind "none") -}}
{{- fail (printf "triton.autoscaling.kind %s scales one set, and triton.groups makes several; set it to none, and give each group its replicas" $common.autoscaling.kind) -}}
{{- end -}}
{{- $sets := list -}}
{{- range $index, $group := .Values.triton.groups | default (list (dict)) -}}
{{- $ending := "" -}}
{{- with $group.name -}}{{- $ending = printf "-%s" . -}}{{- end -}}
{{- $triton := deepCopy $common -}}
{{- range $key, $value := omit $group "name" "deviceClass" "gpu" -}}
{{- if kindIs "map" $value -}}{{- $value = mergeOverwrite (index $triton $key | default dict) $value -}}{{- end -}}
{{- $_ := set $triton $key $value -}}
{{- end -}}
{{- $set := dict "group" ($group.name | default "") "deviceClass" ($group.deviceClass | default "") "triton" $triton -}}
{{- $_ := set $set "name" (printf "%s-triton%s" $name $ending) -}}
{{- $_ := set $set "server" (printf "triton%s" $ending) -}}
{{- $_ := set $set "config" (printf "%s-controller%s" $name $ending) -}}
{{- $_ := set $set "gpu" ($group.gpu | default $.Values.controller.gpu) -}}
{{- $_ := set $set "gpuKey" (empty $group.gpu | ternary "controller.gpu" (printf "triton.groups[%d].gpu" $index)) -}}
{{- if and $group.name (gt (len $set.name) 52) -}}
{{- fail (printf "triton.groups[%d].name %s makes the name %s, of %d characters, where Kubernetes can't label pods beyond 52; shorten it, or set nameOverride or the release's name to a shorter one" $index $group.name $set.name (len $set.name)) -}}
{{- end -}}
{{- range $sets -}}
{{- if eq .name $set.name -}}
{{- fail (printf "triton.groups[%d].name %s is there twice; name each group differently" $index $group.name) -}}
{{- end -}}
{{- end -}}
{{- include "slim.checkGpu" (dict "root" $ "set" $set "others" $sets) -}}
{{- $sets = append $sets $set -}}
{{- end -}}
{{- dict "sets" $sets | toJson -}}
{{- end -}}

{{- /* Refuse what would let several controllers take one device for their own: (dict "root" $ "set" $set "others" list). */ -}}
{{- define "slim.checkGpu" -}}
{{- $set := .set -}}
{{- $triton := $set.triton -}}
{{- if and .root.Values.controller.enabled (eq $triton.device "gpu") (regexMatch "^(GPU|MIG)-" $set.gpu) -}}
{{- $remedy := "leave it out where a node has one GPU, or make a group of one replica for each device (triton.groups)" -}}
{{- $most := ternary $triton.replicas $triton.autoscaling.maxReplicas (eq $triton.autoscaling.kind "none") -}}
{{- if eq $triton.kind "DaemonSet" -}}
{{- fail (printf "%s %s is one device, and each pod of %s, a DaemonSet, would watch it; %s" $set.gpuKey $set.gpu $set.name $remedy) -}}
{{- else if gt (int $most) 1 -}}
{{- fail (printf "%s %s is one device, and each of the %v replicas of %s would watch it; %s" $set.gpuKey $set.gpu $most $set.name $remedy) -}}
{{- end -}}
{{- range .others -}}
{{- if eq .gpu $set.gpu -}}
{{- fail (printf "%s %s is watched by the controller of %s already; give each group the device of its own" $set.gpuKey $set.gpu .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The server behind a set's headless service: (dict "root" $ "set" $set). The controller beside one is told that it
is there. Hosts are without the namespace, so that rendered manifests can be applied in any. */ -}}
{{- define "slim.server" -}}
{{- $host := .set.name -}}
name: {{ .set.server }}
grpc: {{ $host }}:8001
metrics: http://{{ $host }}:8002/metrics
{{- if .root.Values.controller.enabled }}
controller: {{ $host }}:9400
{{- end }}
device: {{ .set.triton.device }}
{{- with .set.deviceClass }}
device_class: {{ . | quote }}
{{- end }}
{{- if .root.Values.triton.restrictedProtocol.enabled }}
protocol_key_file: /etc/slimsched/protocol/pair
{{- end }}
{{- end -}}

{{- /* The ConfigMap of a set's controllers, empty without: (dict "root" $ "set" $set). */ -}}
{{- define "slim.controllerConfig" -}}
{{- $root := .root -}}
{{- if $root.Values.controller.enabled -}}
{{- $server := merge (include "slim.server" . | fromYaml) (dict "repository" "/models") -}}
{{- $limits := dict -}}
{{- with $root.Values.controller.memoryBudgetMib }}{{- $_ := set $limits "memory_budget_mib" . -}}{{- end -}}
{{- with $root.Values.controller.maxInstances }}{{- $_ := set $limits "max_instances" (int .) -}}{{- end -}}
{{- if $limits }}{{- $_ := set $server "limits" $limits -}}{{- end -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .set.config }}
  labels: {{- include "slim.labels" (dict "root" $root "part" "triton" "group" .set.group) | nindent 4 }}
data:
  fleet.yaml: |
    {{- dict "servers" (list $server) "controller" $root.Values.fleet.controller "router" (pick $root.Values.fleet.router "deadline_ms") | toYaml | nindent 4 }}
{{- end }}
{{ end -}}
