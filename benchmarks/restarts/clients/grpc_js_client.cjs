// grpc-js with round_robin: node grpc_js_client.cjs ADDRESSES RATE MESSAGE, until standard input ends.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');

const METHOD = '/inference.GRPCInferenceService/ModelInfer';
const TIMEOUT_MS = 20_000;
const [addresses, rate, path] = process.argv.slice(2);
const message = fs.readFileSync(path);
const client = new grpc.Client(`ipv4:${addresses}`, grpc.credentials.createInsecure(), {
  'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 200,
});
const met = { answered: 0, longest_s: 0, errors: {} };
const same = (bytes) => bytes;
let pending = 0;
let sent = 0;
let isOver = false;

function finish() {
  if (isOver && pending === 0) {
    console.log(JSON.stringify(met));
    process.exit(0);
  }
}

function ask(due) {
  pending += 1;
  client.makeUnaryRequest(METHOD, same, same, message, { deadline: Date.now() + TIMEOUT_MS }, (error) => {
    pending -= 1;
    if (error) {
      const reason = `${grpc.status[error.code]}: ${error.details}`;
      met.errors[reason] = (met.errors[reason] || 0) + 1;
    } else {
      met.answered += 1;
      met.longest_s = Math.max(met.longest_s, (performance.now() - due) / 1e3);
    }
    finish();
  });
}

const begin = performance.now();
const timer = setInterval(() => {
  for (; begin + (sent * 1e3) / rate <= performance.now(); sent += 1) ask(begin + (sent * 1e3) / rate);
}, 2);
process.stdin.resume();
process.stdin.on('end', () => {
  clearInterval(timer);
  isOver = true;
  finish();
});
