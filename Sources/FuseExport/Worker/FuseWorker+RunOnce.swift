// One pass of a worker, which works and waits. All of it goes to the kernel in one call: replies that are ready, image
// reads that were looked up, and one standing read of /dev/fuse, which the kernel completes when the next request
// comes. At depth 1 that is two calls a request; the deeper the queue, the more requests share one.
import BlockEngine
import CQblk
import Glibc
import LinuxIO

/// The kind of a completion, in the top byte of the ring's user data (bit 63 marks the engine's).
private enum Tag {
    static let request: UInt64 = 1 << 56
    static let reply: UInt64 = 2 << 56
    static let kinds: UInt64 = 0xff << 56
    static let index: UInt64 = 0xffff
}

extension FuseWorker {
    /// One pass: submits what is ready, waits for completions, and handles them.
    func runOnce() {
        postReplies()
        postStandingRead()
        // Replies complete when they are submitted. Waiting for one more completion than there are replies means
        // waiting for a request or the image, unless a request waits for what a reply frees.
        let scarce = requests.waiting > 0 || unsentCount > 0 || !standing
        let alone = engine.inFlight == 0
        if engine.inFlight != 1 || !awaitImage() {
            ring.submitAndWait(scarce ? 1 : UInt32(truncatingIfNeeded: repliesInFlight &+ 1))
            if engine.inFlight == 1 { polling.recordSleep() }
        }
        drain()
        // When a request came while others were in flight, more have usually come, too.
        if !standing, !alone, !ended { drainDevice() }
        start()
    }

    /// Starts the requests that came, and answers those that are done.
    @inline(__always) private func start() {
        serveLine()
        var hasMore: Bool
        repeat {
            hasMore = false
            engine.submit()
            while let done = engine.nextFinished() {
                let slot = Int(done.slot)
                if slot >= pool.count, goesOn(slot &- pool.count, after: done.error) {
                    hasMore = true
                } else {
                    send(slot, seal(done))
                }
            }
        } while hasMore
    }

    /// One image read is in flight and nothing else: polls for its end before sleeping, where that has lately paid off.
    /// True when it ended. A read from the page cache has ended when it is submitted.
    ///
    /// To poll for the next request in the same way does not pay: its sender needs the processor meanwhile.
    @inline(never) private func awaitImage() -> Bool {
        ring.submit()
        polling.begin()
        // Replies are complete by now; one more completion is the read's.
        while ring.completionsReady <= repliesInFlight {
            if ring.hasDeferredWork { ring.submitAndWait(0) } else if !polling.shouldContinue() { return false }
        }
        polling.recordHit()
        return true
    }

    private func postStandingRead() {
        guard !standing, requests.free > 0 else { return }
        let buffer = requests.take()
        guard
            unsafe ring.prepareRead(
                fd: fuse, buffer: requests.bytes(buffer), count: UInt32(truncatingIfNeeded: requests.size),
                offset: Ring.currentPosition, userData: Tag.request | UInt64(buffer))
        else { return requests.give(buffer) }
        standing = true
    }

    /// Reads all requests that are there now, by plain calls: a read on the ring that finds nothing would stay there.
    private func drainDevice() {
        while requests.free > 0 {
            let buffer = requests.take()
            let count = unsafe Glibc.read(fuse, requests.bytes(buffer), requests.size)
            guard count > 0 else {
                requests.give(buffer)
                return note(count < 0 ? 0 &- errno : 0 &- ENODEV)
            }
            requests.enqueue(buffer, length: Int32(truncatingIfNeeded: count))
        }
    }

    private func send(_ slot: Int, _ length: Int) {
        guard
            unsafe ring.prepareWrite(
                fd: fuse, buffer: reply(slot), count: UInt32(truncatingIfNeeded: length),
                offset: Ring.currentPosition, userData: Tag.reply | UInt64(slot))
        else {
            unsafe unsent[unsentCount] = UInt16(truncatingIfNeeded: slot)
            unsentCount &+= 1
            return
        }
        repliesInFlight &+= 1
    }

    /// Submits the replies that found no room on the ring before.
    @inline(__always) private func postReplies() {
        while unsentCount > 0 {
            unsentCount &-= 1
            let slot = unsafe Int(unsent[unsentCount])
            let before = unsentCount
            unsafe send(slot, Int(reply(slot).load(as: fuse_out_header.self).len))
            if unsentCount > before { return }
        }
    }

    /// To be called after the connection's end: waits until nothing is in flight, because the buffers are freed next.
    func settle() {
        while engine.inFlight > 0 || repliesInFlight > 0 {
            ring.submitAndWait(1)
            drain()
            engine.submit()
            while let done = engine.nextFinished() { release(Int(done.slot)) }
        }
    }

    // MARK: completions

    @inline(__always) private func drain() {
        ring.drain { userData, result in
            if RequestEngine.owns(userData) {
                engine.complete(userData, result)
                return
            }
            let index = Int(userData & Tag.index)
            if userData & Tag.kinds == Tag.reply {
                // A request that was given up meanwhile (ENOENT) needs no answer; a lost connection is found by the
                // next read.
                repliesInFlight &-= 1
                release(index)
                return
            }
            standing = false
            if result > 0 {
                requests.enqueue(index, length: result)
            } else {
                requests.give(index)
                note(result)
            }
        }
    }

    /// Handles the result of a read of /dev/fuse that brought no request.
    @inline(__always) private func note(_ result: Int32) {
        switch 0 &- result {
        case EAGAIN, EINTR, ENOENT: break
        default: ended = true
        }
    }
}
