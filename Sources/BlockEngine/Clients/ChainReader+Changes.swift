// Offline verbs change images, too, and by the engine that serves guests: it knows how to allocate, how
// to copy what lies below, and in which order all of it reaches the disk.
public import DiskTypes
import Glibc
import LinuxIO

extension ChainReader {
    /// Writes `memory` at `guest`, and waits. Only for a chain that is open for writing, as all that follows.
    public func write(_ guest: GuestOffset, from memory: UnsafeMutableRawBufferPointer) throws(ImageError) {
        var done = 0
        while done < memory.count, let base = memory.baseAddress {
            let part = min(memory.count - done, 1 << 30)
            var list = unsafe iovec(iov_base: base + done, iov_len: part)
            let finished = unsafe withUnsafePointer(to: &list) { list in
                unsafe perform(
                    BlockRequest(
                        .write, slot: UInt32(depth), guest: guest + UInt64(done), length: UInt64(part), iovecs: list,
                        iovecCount: 1))
            }
            try check(finished, "writing", guest + UInt64(done))
            done += part
        }
    }

    /// Makes a range read as zeros, by its entries where there are such.
    public func zero(_ guest: GuestOffset, length: UInt64, mayUnmap: Bool) throws(ImageError) {
        var done: UInt64 = 0
        while done < length {
            let part = min(length - done, 1 << 30)
            let finished = unsafe perform(
                BlockRequest(
                    .writeZeroes, slot: UInt32(depth), guest: guest + done, length: part, mayUnmap: mayUnmap))
            try check(finished, "zeroing", guest + done)
            done += part
        }
    }

    /// All that was written is on the disk when this returns.
    public func flush() throws(ImageError) {
        try unsafe check(perform(BlockRequest(.flush, slot: UInt32(depth))), "flushing", GuestOffset(0))
    }

    private func perform(_ request: BlockRequest) -> RequestEngine.Finished {
        engine.submit(request)
        while true {
            let finished = next()
            if finished.slot == request.slot { return finished }
            stash.append(finished)
        }
    }

    private func check(
        _ finished: RequestEngine.Finished, _ verb: String, _ guest: GuestOffset
    ) throws(ImageError) {
        guard finished.error != 0 else { return }
        if let damage = finished.damage { throw .malformed(damage.description) }
        let advice = finished.error == ENOSPC ? "make room on the file system" : nil
        throw ImageError(
            .system, "\(verb) at \(guest) failed: \(errorText(finished.error))", advice: advice, number: finished.error)
    }
}
