/**
 * OpenAI's SDK against the gateway: whole, streamed, and with a tool. It talks to the gateway at `GATEWAY_URL`, or
 * starts one of its own. Run it with `npx node scratchpad/04-openai-sdk.ts`.
 */
// @effect-diagnostics processEnv:off globalConsole:off
import { NodeServices } from "@effect/platform-node"
import { Layer, ManagedRuntime } from "effect"
import { HttpServer } from "effect/http"
import OpenAI from "openai"
import {
  Gateway,
  GatewayServer,
  IdentityKeys,
  ModelRegistryLayer,
  OutboundUndici,
  Registries,
  Sandbox,
  TypeRegistry
} from "../src/index.ts"

const Service = GatewayServer.layer({ host: "127.0.0.1", port: 0, maxBodyBytes: 25_000_000, drainTimeout: 1000 }).pipe(
  Layer.provide(Gateway.layer()),
  Layer.provide(ModelRegistryLayer.layer()),
  Layer.provide(Sandbox.layer()),
  Layer.provide(
    Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty, IdentityKeys.layerNone())
  ),
  Layer.provide(NodeServices.layer)
)
const runtime = ManagedRuntime.make(Service)

const ownUrl = async () => {
  const { address } = await runtime.runPromise(HttpServer.HttpServer)
  return address._tag === "UnixPathAddress" ? "" : `http://127.0.0.1:${address.port}`
}

const client = new OpenAI({
  baseURL: `${process.env["GATEWAY_URL"] ?? await ownUrl()}/v1`,
  apiKey: process.env["GATEWAY_KEY"] ?? "none"
})

const answer = await client.chat.completions.create({
  model: "sandbox::echo",
  messages: [{ role: "user", content: "Hello, gateway!" }]
})
console.log(answer.choices[0]?.message.content)

const stream = await client.chat.completions.create({
  model: "sandbox::tokens-5",
  messages: [{ role: "user", content: "Count." }],
  stream: true
})
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? "")
process.stdout.write("\n")

const called = await client.chat.completions.create({
  model: "sandbox::tools",
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  tools: [{
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { const: "Paris" } }, required: ["city"] }
    }
  }]
})
const call = called.choices[0]?.message.tool_calls?.[0]
if (call?.type === "function") console.log(`${call.function.name} ${call.function.arguments}`)

await runtime.dispose()
