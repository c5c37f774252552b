#!/bin/sh
# Runs the edgerank that was installed with this file, with no packages but those of the pack.
# Its libraries stay off the network; each switch is set only where nothing else is.
: "${ORT_DISABLE_TELEMETRY:=1}"; export ORT_DISABLE_TELEMETRY
: "${HF_HUB_OFFLINE:=1}"; export HF_HUB_OFFLINE
: "${TRANSFORMERS_OFFLINE:=1}"; export TRANSFORMERS_OFFLINE
: "${HF_DATASETS_OFFLINE:=1}"; export HF_DATASETS_OFFLINE
: "${HF_HUB_DISABLE_TELEMETRY:=1}"; export HF_HUB_DISABLE_TELEMETRY
: "${DO_NOT_TRACK:=1}"; export DO_NOT_TRACK
# OpenTelemetry sends where --otlp-endpoint says, or nowhere
: "${OTEL_TRACES_EXPORTER:=none}"; export OTEL_TRACES_EXPORTER
: "${OTEL_METRICS_EXPORTER:=none}"; export OTEL_METRICS_EXPORTER
: "${OTEL_LOGS_EXPORTER:=none}"; export OTEL_LOGS_EXPORTER
# no bytecode is written: nobody has signed it
exec "$(dirname "$(readlink -f "$0")")/../venv/bin/python" -I -B -m edgerank "$@"
