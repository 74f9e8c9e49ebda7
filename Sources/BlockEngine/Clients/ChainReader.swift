// Offline verbs read images too, and should read them by the same engine as the doors, not by a
// second one that is subtly different. This is the engine with a ring of its own, and calls that wait.
public import DiskTypes
public import ImageChain
import Glibc
import LinuxIO

/// Reads a chain's disk, either one blocking read at a time or several in flight. Confined to one thread.
public final class ChainReader {
    /// The image that is read.
    public let chain: ImageChain
    /// How many pipelined reads can be in flight.
    public let depth: Int
    private let ring: Ring
    let engine: RequestEngine
    /// Finished pipelined reads that came up while a blocking one waited.
    var stash: [RequestEngine.Finished] = []
    var pipelined = 0

    /// A reader of `chain` with up to `depth` pipelined reads in flight, which keeps up to `decodedCacheBytes` bytes of decoded
    /// clusters. Throws when there is no ring, or no memory.
    public init(_ chain: ImageChain, depth: Int = 16, decodedCacheBytes: Int = 8 << 20) throws(ImageError) {
        ring = try Ring.make(entries: UInt32(clamping: min(max(depth * 2, 8), 4096)))
        // One slot more, for blocking reads.
        engine = try RequestEngine(
            chain: chain, ring: ring, slots: depth + 1, decodedCacheBytes: decodedCacheBytes)
        self.chain = chain
        self.depth = depth
    }

    /// What the engine did so far.
    public var statistics: Statistics { engine.statistics }

    // MARK: one at a time

    /// Fills `memory` with the disk's bytes at `guest`.
    public func read(_ guest: GuestOffset, into memory: UnsafeMutableRawBufferPointer) throws(ImageError) {
        var done = 0
        while done < memory.count, let base = memory.baseAddress {
            let part = min(memory.count - done, 1 << 30)
            unsafe engine.submitRead(slot: depth, guest: guest + UInt64(done), buffer: base + done, length: part)
            while true {
                let finished = next()
                guard finished.slot == UInt32(depth) else {
                    stash.append(finished)
                    continue
                }
                if finished.error != 0 { throw ChainReader.error(finished, at: guest + UInt64(done)) }
                break
            }
            done += part
        }
    }

    /// The disk's bytes at `guest`.
    public func read(_ guest: GuestOffset, count: Int) throws(ImageError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let result: Result<Void, ImageError> = unsafe bytes.withUnsafeMutableBytes { memory in
            do throws(ImageError) {
                return unsafe .success(try read(guest, into: memory))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
        return bytes
    }

    // MARK: several in flight

    /// Starts a read on a slot (`0..<depth`) that is free; `waitFinished` hands the slot back, and the memory with it.
    public func submit(slot: Int, _ guest: GuestOffset, _ buffer: UnsafeMutableRawPointer, length: Int) {
        precondition(slot >= 0 && slot < depth, "no such slot")
        pipelined += 1
        unsafe engine.submitRead(slot: slot, guest: guest, buffer: buffer, length: length)
    }

    /// How many reads are submitted and not handed back.
    public var inFlight: Int { pipelined }

    /// Waits for one of the reads in flight; nil when there is none.
    public func waitFinished() -> RequestEngine.Finished? {
        guard pipelined > 0 else { return nil }
        pipelined -= 1
        return stash.isEmpty ? next() : stash.removeFirst()
    }

    /// One of the reads in flight that is over already; nil when all of them are still to be waited for.
    public func takeFinished() -> RequestEngine.Finished? {
        guard pipelined > 0 else { return nil }
        if stash.isEmpty { engine.submit() }
        guard let finished = stash.isEmpty ? engine.nextFinished() : stash.removeFirst() else { return nil }
        pipelined -= 1
        return finished
    }

    /// What a failed read means, in words.
    public static func error(_ finished: RequestEngine.Finished, at guest: GuestOffset) -> ImageError {
        if let damage = finished.damage { return .malformed(damage.description) }
        return ImageError(.system, "reading at \(guest) failed: \(errorText(finished.error))", number: finished.error)
    }

    func next() -> RequestEngine.Finished {
        while true {
            engine.submit()
            if let finished = engine.nextFinished() { return finished }
            let result = ring.submitAndWait(1)
            let drained = ring.drain { userData, result in
                if RequestEngine.owns(userData) { engine.complete(userData, result) }
            }
            // Out of memory for a moment: the kernel said so without sleeping.
            if result < 0, drained == 0 { sched_yield() }
        }
    }
}

@available(*, unavailable) extension ChainReader: Sendable {}
