{{- /* What all names begin with. One that would be longer ends in its hash, so that no two releases have the same. */ -}}
{{- define "slim.name" -}}
{{- $name := default "slim-scheduler" .Values.nameOverride -}}
{{- $whole := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- if gt (len $whole) 40 -}}{{ $whole | trunc 33 | trimSuffix "-" }}-{{ sha256sum $whole | trunc 6 }}
{{- else -}}{{ $whole | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- /* Labels that select the pods of one part: (dict "root" $ "part" "triton"), or of one "group" of Tritons. */ -}}
{{- define "slim.selector" -}}
app.kubernetes.io/name: slim-scheduler
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- with .group }}
slim-scheduler/group: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "slim.labels" -}}
{{ include "slim.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- /* Reference of an image: (dict "root" $ "image" .Values.gateway.image). */ -}}
{{- define "slim.image" -}}
{{- if .image.digest -}}{{ .image.repository }}@{{ .image.digest }}
{{- else -}}{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- end -}}

{{- define "slim.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "slim.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "slim.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* On which nodes pods may run, by the values of their part. */ -}}
{{- define "slim.nodes" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- /* What places pods: (dict "root" $ "part" "gateway" "values" .Values.gateway). */ -}}
{{- define "slim.placement" -}}
{{- include "slim.pullSecrets" .root }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- include "slim.nodes" .values }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
{{ toYaml .values.topologySpreadConstraints }}
{{- else }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "slim.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "slim.protocolSecret" -}}
{{ default (printf "%s-protocol" (include "slim.name" .)) .Values.triton.restrictedProtocol.existingSecret }}
{{- end -}}

{{- define "slim.tokensSecret" -}}
{{- if .Values.gateway.tokens.existingSecret -}}{{ .Values.gateway.tokens.existingSecret }}
{{- else if .Values.gateway.tokens.tenants -}}{{ include "slim.name" . }}-tokens{{ end -}}
{{- end -}}

{{- define "slim.tlsSecret" -}}
{{- if eq .Values.gateway.tls.kind "secret" -}}{{ .Values.gateway.tls.secretName }}
{{- else if eq .Values.gateway.tls.kind "cert-manager" -}}{{ include "slim.name" . }}-tls{{ end -}}
{{- end -}}
