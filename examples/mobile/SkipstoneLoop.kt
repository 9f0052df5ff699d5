// A bundle of skipstone in an Android app, on onnxruntime alone: com.microsoft.onnxruntime:onnxruntime-android.
// docs/mobile.md explains it; tests/sdk/mobile/raw_loop.py makes the same calls, and its tokens are tested.

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer
import kotlin.math.cos
import kotlin.math.sin
import org.json.JSONArray
import org.json.JSONObject

/** The graphs of a bundle, one cache of [capacity] tokens, and how many stand in it. */
class Graphs(folder: File, val capacity: Int, threads: Int) : AutoCloseable {
    private val env = OrtEnvironment.getEnvironment()
    val manifest = JSONObject(File(folder, "skipstone.json").readText())
    private val sessions: List<OrtSession>
    private val fixed = HashMap<String, OnnxTensor>() // caches and tables: made once, the same memory in every call
    private val rows = capacity + 1 // a row that attention sees twice lands behind the text
    private var zeros = floats(4096)
    var length = 0

    init {
        val options = OrtSession.SessionOptions()
        options.setIntraOpNumThreads(threads)
        options.addConfigEntry("session.intra_op.spin_duration_us", "200") // a long spin costs the battery
        sessions = files().map { env.createSession(File(folder, it).path, options) }
        for (session in sessions) for ((name, node) in session.inputInfo) {
            if (!name.startsWith("past_")) continue
            val info = node.info as TensorInfo // [B, heads, rows, size]
            val shape = longArrayOf(1, info.shape[1], rows.toLong(), info.shape[3])
            val bytes = if (info.type == OnnxJavaType.INT8) 1 else 4
            val memory = direct((info.shape[1] * rows * info.shape[3] * bytes).toInt())
            fixed[name] = OnnxTensor.createTensor(env, memory, shape, info.type)
        }
        addRotaryTables()
    }

    /** The graphs of a plain call, over the type of cache that the bundle was made for. */
    private fun files(): List<String> {
        val stages = manifest.getJSONArray("stages")
        val plain = (0 until stages.length()).map { stages.getJSONObject(it).getString("file") }.toMutableList()
        if (!manifest.isNull("head")) plain.add(manifest.getString("head"))
        val others = manifest.getJSONObject("variants").optJSONObject("cache-" + manifest.getString("cache_type"))
        return plain.map { others?.optString(it, it) ?: it }
    }

    /** Cosines and sines of every kind of turn, for the positions of the cache. */
    private fun addRotaryTables() {
        val kinds = manifest.getJSONArray("rotaries")
        val width = manifest.getJSONArray("cache").getJSONObject(0).getInt("head_size") / 2
        for (number in 0 until kinds.length()) {
            val kind = kinds.getJSONObject(number)
            val frequencies = kind.getJSONArray("frequencies")
            val magnitude = kind.getDouble("magnitude")
            val cosines = floats(rows * width)
            val sines = floats(rows * width)
            for (row in 0 until rows) for (pair in 0 until width) {
                if (pair < frequencies.length()) {
                    val angle = (row.toFloat() * frequencies.getDouble(pair).toFloat()).toDouble() // rounded as in training
                    cosines.put(row * width + pair, (cos(angle) * magnitude).toFloat())
                    sines.put(row * width + pair, (sin(angle) * magnitude).toFloat())
                } else {
                    cosines.put(row * width + pair, 1f) // this channel is not turned
                }
            }
            val shape = longArrayOf(rows.toLong(), width.toLong())
            fixed["cosines_$number"] = OnnxTensor.createTensor(env, cosines, shape)
            fixed["sines_$number"] = OnnxTensor.createTensor(env, sines, shape)
        }
    }

    /** Feed tokens behind those in the cache; return the logits behind [logitRows] of them. The length stays. */
    fun run(tokens: List<Int>, logitRows: List<Int>): Array<FloatArray> {
        val count = tokens.size
        val twice = sessions[0].inputInfo.containsKey("attention_rows") && (count == 1 || count > 16)
        val seen = (0 until count) + (if (twice) listOf(count - 1) else emptyList()) // rounds alike for any number of rows
        val total = length + seen.size
        val values = HashMap<String, OnnxTensor>()
        values["token_ids"] = longs(tokens.map { it.toLong() }, 1, count.toLong(), 1)
        values["token_weights"] = OnnxTensor.createTensor(env, ones(count), longArrayOf(1, count.toLong(), 1))
        values["position_ids"] = longs(seen.map { (length + it).toLong() }, 1, seen.size.toLong())
        values["seqlens_k"] = OnnxTensor.createTensor(env, IntBuffer.wrap(intArrayOf(total - 1)), longArrayOf(1))
        values["total_sequence_length"] = OnnxTensor.createTensor(env, IntBuffer.wrap(intArrayOf(total)), longArrayOf())
        values["attention_bias"] = bias(seen.size, total)
        values["attention_rows"] = longs(seen.map { it.toLong() }, seen.size.toLong())
        values["token_rows"] = longs((0L until count).toList(), count.toLong())
        values["rows"] = longs(logitRows.map { it.toLong() }, logitRows.size.toLong())
        var logits = emptyArray<FloatArray>()
        for (session in sessions) {
            val inputs = HashMap<String, OnnxTensor>()
            for (name in session.inputNames) inputs[name] = (fixed[source(name)] ?: values[source(name)])!!
            val caches = session.outputNames.filter { it.startsWith("present_") }
            val pinned = caches.associateWith { fixed[it.substringBefore("_of_").replace("present_", "past_")]!! }
            val result = session.run(inputs, session.outputNames - caches.toSet(), pinned, null) // the cache is written in place
            for ((name, value) in result) {
                if (name == "hidden_out") values.put("hidden", value as OnnxTensor)?.close()
                if (name == "logits") (value as OnnxTensor).use { logits = rowsOf(it) }
            }
        }
        values.values.forEach { it.close() }
        return logits
    }

    /** Layers with a ring count rows of their own; a cache that holds the whole text counts as the others do. */
    private fun source(name: String) = when {
        name.startsWith("seqlens_k_") -> "seqlens_k"
        name.startsWith("total_length_") -> "total_sequence_length"
        else -> name
    }

    private fun bias(numRows: Int, total: Int): OnnxTensor {
        if (zeros.capacity() < numRows * total) zeros = floats(2 * numRows * total)
        val part = zeros.duplicate()
        part.position(0)
        part.limit(numRows * total)
        return OnnxTensor.createTensor(env, part, longArrayOf(1, 1, numRows.toLong(), total.toLong()))
    }

    private fun longs(numbers: List<Long>, vararg shape: Long) =
        OnnxTensor.createTensor(env, LongBuffer.wrap(numbers.toLongArray()), shape)

    private fun rowsOf(logits: OnnxTensor): Array<FloatArray> {
        val (count, width) = logits.info.shape.map { it.toInt() }
        val numbers = logits.floatBuffer
        return Array(count) { FloatArray(width).also { row -> numbers.get(row) } }
    }

    override fun close() {
        fixed.values.forEach { it.close() }
        sessions.forEach { it.close() }
    }

    private fun ones(count: Int): FloatBuffer = floats(count).also { for (at in 0 until count) it.put(at, 1f) }
    private fun floats(count: Int): FloatBuffer = direct(4 * count).asFloatBuffer()
    private fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
}

/** Yield tokens until one that ends the text; [draft] guesses some, and changes no token. */
fun greedy(graphs: Graphs, prompt: List<Int>, limit: Int, draft: (List<Int>) -> List<Int>) = sequence {
    val tokens = prompt.toMutableList()
    val stops = graphs.manifest.getJSONArray("stop_ids").let { ids -> (0 until ids.length()).map { ids.getInt(it) } }
    while (tokens.size - 1 - graphs.length > PIECE) { // a long prompt in pieces, its last token stays
        graphs.run(tokens.subList(graphs.length, graphs.length + PIECE), listOf(0))
        graphs.length += PIECE
    }
    val end = tokens.size + limit
    while (tokens.size < minOf(end, graphs.capacity)) {
        val pending = tokens.subList(graphs.length, tokens.size).toList()
        val guesses = draft(tokens).take(minOf(end, graphs.capacity) - tokens.size - 1)
        val first = pending.size - 1
        val logits = graphs.run(pending + guesses, (first..first + guesses.size).toList())
        for (row in 0..guesses.size) {
            val token = logits[row].indices.maxByOrNull { logits[row][it] }!!
            tokens.add(token)
            yield(token)
            if (token in stops) return@sequence
            if (token != guesses.getOrNull(row)) break
        }
        graphs.length = tokens.size - 1 // rows of refused guesses lie behind it and are written again
    }
}

/** Guess that what followed the last tokens before follows them again. */
fun ngram(tokens: List<Int>, size: Int = 3, most: Int = 4): List<Int> {
    val last = tokens.takeLast(size)
    for (start in tokens.size - size - 1 downTo 0) {
        if (tokens.subList(start, start + size) == last) return tokens.drop(start + size).take(most)
    }
    return emptyList()
}

/** Text as tokens come: what is shown never changes, so a character that is half there waits. */
class Pieces(private val decode: (List<Int>) -> String) {
    private val tokens = ArrayList<Int>()
    private var shown = 0

    fun push(token: Int): String {
        tokens.add(token)
        val text = decode(tokens)
        if (text.endsWith('\uFFFD')) return ""
        return text.substring(shown).also { shown = text.length }
    }
}

private const val PIECE = 128
