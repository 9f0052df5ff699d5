// A bundle of skipstone in an app for iOS or macOS, on onnxruntime alone: the Swift package onnxruntime-swift-package-manager.
// docs/mobile.md explains it; tests/sdk/mobile/raw_loop.py makes the same calls, and its tokens are tested.

import Foundation
import OnnxRuntimeBindings

struct Manifest: Decodable {
  struct Stage: Decodable { let file: String }
  struct Cache: Decodable { let num_heads: Int, head_size: Int }
  struct Rotary: Decodable { let frequencies: [Double], magnitude: Double }
  struct Dimensions: Decodable { let vocab_size: Int, hidden_size: Int }
  let stages: [Stage]
  let head: String?
  let dimensions: Dimensions
  let cache: [Cache]
  let rotaries: [Rotary]
  let stop_ids: [Int]
  let variants: [String: [String: String]]
  let cache_type: String
}

/// The graphs of a bundle, one cache of `capacity` tokens, and how many stand in it.
final class Graphs {
  let manifest: Manifest
  let capacity: Int
  var length = 0
  private let env: ORTEnv
  private var sessions: [ORTSession] = []
  private var names: [(inputs: [String], outputs: [String])] = []
  private var fixed: [String: ORTValue] = [:]  // caches and tables: made once, the same memory in every call
  private let rows: Int  // a row that attention sees twice lands behind the text

  init(folder: URL, capacity: Int, threads: Int32) throws {
    self.capacity = capacity
    rows = capacity + 1
    manifest = try JSONDecoder().decode(Manifest.self, from: Data(contentsOf: folder.appendingPathComponent("skipstone.json")))
    env = try ORTEnv(loggingLevel: .warning)
    let options = try ORTSessionOptions()
    try options.setIntraOpNumThreads(threads)
    try options.addConfigEntry(withKey: "session.intra_op.spin_duration_us", value: "200")  // a long spin costs the battery
    for file in files() {
      let session = try ORTSession(env: env, modelPath: folder.appendingPathComponent(file).path, sessionOptions: options)
      sessions.append(session)
      names.append((try session.inputNames(), try session.outputNames()))
    }
    try addCaches()
    try addRotaryTables()
  }

  /// The graphs of a plain call, over the type of cache that the bundle was made for.
  private func files() -> [String] {
    let plain = manifest.stages.map { $0.file } + (manifest.head.map { [$0] } ?? [])
    let others = manifest.variants["cache-\(manifest.cache_type)"] ?? [:]
    return plain.map { others[$0] ?? $0 }
  }

  private func addCaches() throws {
    let isInt8 = manifest.cache_type == "int8"
    for (layer, cache) in manifest.cache.enumerated() {
      let shape = [1, cache.num_heads, rows, cache.head_size]
      for kind in ["key", "value"] {
        let memory = NSMutableData(length: shape.reduce(isInt8 ? 1 : 4, *))!
        fixed["past_\(kind)_\(layer)"] = try value(memory, isInt8 ? .int8 : .float, shape)
      }
    }
  }

  /// Cosines and sines of every kind of turn, for the positions of the cache.
  private func addRotaryTables() throws {
    let width = manifest.cache[0].head_size / 2
    for (number, kind) in manifest.rotaries.enumerated() {
      var cosines = [Float](repeating: 1, count: rows * width)  // a channel beyond the frequencies is not turned
      var sines = [Float](repeating: 0, count: rows * width)
      for row in 0..<rows {
        for (pair, frequency) in kind.frequencies.enumerated() {
          let angle = Double(Float(row) * Float(frequency))  // rounded as in training
          cosines[row * width + pair] = Float(cos(angle) * kind.magnitude)
          sines[row * width + pair] = Float(sin(angle) * kind.magnitude)
        }
      }
      fixed["cosines_\(number)"] = try tensor(cosines, .float, [rows, width])
      fixed["sines_\(number)"] = try tensor(sines, .float, [rows, width])
    }
  }

  /// Feed tokens behind those in the cache; return the logits behind `logitRows` of them. The length stays.
  func run(_ tokens: [Int], logitRows: [Int]) throws -> [[Float]] {
    let count = tokens.count
    let twice = names[0].inputs.contains("attention_rows") && (count == 1 || count > 16)
    let seen = Array(0..<count) + (twice ? [count - 1] : [])  // rounds alike for any number of rows
    let total = length + seen.count
    var values: [String: ORTValue] = [
      "token_ids": try longs(tokens, [1, count, 1]),
      "token_weights": try tensor([Float](repeating: 1, count: count), .float, [1, count, 1]),
      "position_ids": try longs(seen.map { length + $0 }, [1, seen.count]),
      "seqlens_k": try tensor([Int32(total - 1)], .int32, [1]),
      "total_sequence_length": try tensor([Int32(total)], .int32, []),
      "attention_bias": try tensor([Float](repeating: 0, count: seen.count * total), .float, [1, 1, seen.count, total]),
      "attention_rows": try longs(seen, [seen.count]),
      "token_rows": try longs(Array(0..<count), [count]),
      "rows": try longs(logitRows, [logitRows.count]),
    ]
    // The Objective-C interface wants all outputs or none in memory of ours, so hidden states and logits are there too.
    let sizes = manifest.dimensions
    var logits: ORTValue?
    for (session, names) in zip(sessions, names) {
      let inputs = Dictionary(uniqueKeysWithValues: names.inputs.map { ($0, (fixed[source($0)] ?? values[source($0)])!) })
      var outputs: [String: ORTValue] = [:]
      for name in names.outputs {
        if name.hasPrefix("present_") {  // the cache is written in place
          let layer = name.components(separatedBy: "_of_")[0].replacingOccurrences(of: "present_", with: "past_")
          outputs[name] = fixed[layer]
        } else {
          let shape = name == "logits" ? [logitRows.count, sizes.vocab_size] : [1, count, sizes.hidden_size]
          outputs[name] = try value(NSMutableData(length: shape.reduce(4, *))!, .float, shape)
        }
      }
      try session.run(withInputs: inputs, outputs: outputs, runOptions: nil)
      values["hidden"] = outputs["hidden_out"] ?? values["hidden"]
      logits = outputs["logits"] ?? logits
    }
    let numbers = try (logits!.tensorData() as Data).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    return (0..<logitRows.count).map { Array(numbers[$0 * sizes.vocab_size..<($0 + 1) * sizes.vocab_size]) }
  }

  /// Layers with a ring count rows of their own; a cache that holds the whole text counts as the others do.
  private func source(_ name: String) -> String {
    if name.hasPrefix("seqlens_k_") { return "seqlens_k" }
    return name.hasPrefix("total_length_") ? "total_sequence_length" : name
  }

  private func value(_ memory: NSMutableData, _ type: ORTTensorElementDataType, _ shape: [Int]) throws -> ORTValue {
    try ORTValue(tensorData: memory, elementType: type, shape: shape.map { NSNumber(value: $0) })
  }

  private func tensor<Number>(_ numbers: [Number], _ type: ORTTensorElementDataType, _ shape: [Int]) throws -> ORTValue {
    let memory = numbers.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
    return try value(memory, type, shape)
  }

  private func longs(_ numbers: [Int], _ shape: [Int]) throws -> ORTValue {
    try tensor(numbers.map { Int64($0) }, .int64, shape)
  }
}

/// Make tokens until one that ends the text, and hand each to `each`, which may stop it by returning false.
/// `draft` guesses some tokens, and changes none.
func greedy(
  _ graphs: Graphs, prompt: [Int], limit: Int, draft: ([Int]) -> [Int], each: (Int) -> Bool
) throws {
  var tokens = prompt
  let stops = Set(graphs.manifest.stop_ids)
  while tokens.count - 1 - graphs.length > 128 {  // a long prompt in pieces, its last token stays
    _ = try graphs.run(Array(tokens[graphs.length..<graphs.length + 128]), logitRows: [0])
    graphs.length += 128
  }
  let end = min(tokens.count + limit, graphs.capacity)
  while tokens.count < end {
    let pending = Array(tokens[graphs.length...])
    let guesses = Array(draft(tokens).prefix(max(0, end - tokens.count - 1)))
    let first = pending.count - 1
    let logits = try graphs.run(pending + guesses, logitRows: Array(first...first + guesses.count))
    for row in 0...guesses.count {
      let token = logits[row].indices.max { logits[row][$0] < logits[row][$1] }!
      tokens.append(token)
      if !each(token) || stops.contains(token) { return }
      if row == guesses.count || token != guesses[row] { break }
    }
    graphs.length = tokens.count - 1  // rows of refused guesses lie behind it and are written again
  }
}

/// Guess that what followed the last tokens before follows them again.
func ngram(_ tokens: [Int], size: Int = 3, most: Int = 4) -> [Int] {
  guard tokens.count > size else { return [] }
  let last = Array(tokens.suffix(size))
  for start in stride(from: tokens.count - size - 1, through: 0, by: -1)
  where Array(tokens[start..<start + size]) == last {
    return Array(tokens[(start + size)...].prefix(most))
  }
  return []
}

/// Text as tokens come: what is shown never changes, so a character that is half there waits.
struct Pieces {
  let decode: ([Int]) -> String
  private var tokens: [Int] = []
  private var shown = ""

  init(decode: @escaping ([Int]) -> String) { self.decode = decode }

  mutating func push(_ token: Int) -> String {
    tokens.append(token)
    let text = decode(tokens)
    if text.hasSuffix("\u{FFFD}") { return "" }
    defer { shown = text }
    return String(text.dropFirst(shown.count))
  }
}
