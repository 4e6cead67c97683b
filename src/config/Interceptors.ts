/** From the configured interceptors to their plugins: whose requests each one sees, in which order, and what it asks. */
import { NodeHttpClient } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { Gateway } from "../gateway/Gateway.ts"
import { HasPlace } from "../gateway/Places.ts"
import * as HeaderMetadata from "../plugins/interceptors/headerMetadata/HeaderMetadata.ts"
import type { InterceptorOptions } from "../plugins/interceptors/InterceptorOptions.ts"
import * as Moderation from "../plugins/interceptors/moderation/Moderation.ts"
import * as Noop from "../plugins/interceptors/noop/Noop.ts"
import * as Pii from "../plugins/interceptors/pii/Pii.ts"
import * as PromptGuard from "../plugins/interceptors/promptGuard/PromptGuard.ts"
import * as Webhook from "../plugins/interceptors/webhook/Webhook.ts"
import type { Caller } from "../sdk/Caller.ts"
import type { GatewayConfig, InterceptorConfig } from "./GatewayConfig.ts"

/** Whose requests go through an interceptor: those of the tenants that name it and of all below them. */
const appliesTo = (config: GatewayConfig, name: string): (caller: Caller) => boolean => {
  const isEveryones = Object.keys(config.tenants).length === 0
  const tenants = new Set<string>()
  for (const tenant of Object.keys(config.tenants)) {
    for (let at: string | undefined = tenant; at !== undefined; at = config.tenants[at]?.parent) {
      if (config.tenants[at]?.interceptors.includes(name) === true) tenants.add(tenant)
    }
  }
  return ({ tenant }) => isEveryones || tenants.has(tenant)
}

const moderation = (
  { apiKey, categories, model, threshold, url }: Extract<InterceptorConfig, { readonly type: "moderation" }>,
  options: InterceptorOptions
) => {
  const wanted = categories === undefined ? {} : { categories }
  if (url !== undefined) {
    return Moderation.layer({
      ...options,
      ...wanted,
      url,
      ...(apiKey === undefined ? {} : { apiKey }),
      ...(model === undefined ? {} : { model }),
      ...(threshold === undefined ? {} : { threshold })
    }).pipe(Layer.provide(NodeHttpClient.layerUndici))
  }
  return Layer.unwrap(Effect.map(Gateway, (gateway) =>
    Moderation.layerClassify({
      ...options,
      ...wanted,
      classify: Moderation.askModel({
        model: model ?? "",
        ...wanted,
        chat: (request) => Effect.provideService(gateway.chat(request), HasPlace, true)
      })
    })))
}

const interceptorLayer = (config: InterceptorConfig, common: InterceptorOptions) => {
  switch (config.type) {
    case "noop":
      return Noop.layer(common)
    case "pii":
      return Pii.layer({ ...common, detect: config.redact, patterns: config.patterns, action: config.action })
    case "moderation":
      return moderation(config, { ...common, timeoutMs: config.timeout })
    case "webhook":
      return Webhook.layer({
        ...common,
        timeoutMs: config.timeout,
        url: config.url,
        ...(config.secret === undefined ? {} : { secret: config.secret })
      }).pipe(Layer.provide(NodeHttpClient.layerUndici))
    case "prompt-guard":
      return PromptGuard.layer({
        ...common,
        deny: config.deny.map((rule, index) =>
          typeof rule === "string" ? { name: `deny[${index}]`, pattern: rule } : rule
        ),
        caseSensitive: config.caseSensitive,
        ...(config.maxChars === undefined ? {} : { maxChars: config.maxChars }),
        ...(config.maxMessages === undefined ? {} : { maxMessages: config.maxMessages })
      })
    case "header-metadata":
      return HeaderMetadata.layer({ ...common, headers: config.headers, forward: config.forward })
  }
}

/** All configured interceptors. Those without an order of their own run in the order of the file, after order 0. */
export const layer = (config: GatewayConfig) =>
  Layer.mergeAll(
    Layer.empty,
    ...Object.entries(config.interceptors).map(([name, interceptor], index) =>
      interceptorLayer(interceptor, {
        name,
        order: interceptor.order ?? index + 1,
        appliesTo: appliesTo(config, name),
        failure: interceptor.failure,
        on: interceptor.on
      })
    )
  )
