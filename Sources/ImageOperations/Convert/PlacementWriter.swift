// One thread of a conversion to qcow2. It reads ahead, makes of each piece what will be written, asks for its place,
// and writes it when the place is known. It never waits for a place while a read of its own is still to be looked at:
// so the piece that all others wait for is always being worked on.

import BlockEngine
import DiskTypes
import LinuxIO
import QCOW2

/// Reads pieces ahead and writes them where they are placed. Confined to its thread.
final class PlacementWriter {
    private struct Slot {
        var number: UInt64 = 0
        var start: UInt64 = 0
        var length = 0
        var cursor: UInt64 = 0
        var fates: [ClusterEncoding] = []
    }

    private let job: ImageWriteJob
    private let reader: ChainReader
    private let encoder: PieceEncoder
    private let memory: AlignedBuffer
    private let mailbox: Mailbox<PlacementQueue.Placed>
    private var slots: [Slot]
    private var free: [Int]
    /// Pieces whose place is not known yet.
    private var unplaced = 0

    init(_ job: ImageWriteJob) throws(ImageError) {
        self.job = job
        slots = [Slot](repeating: Slot(), count: job.depth)
        free = Array(0..<job.depth)
        reader = try ChainReader(job.chain, depth: job.depth)
        encoder = try PieceEncoder(job)
        do {
            // For each slot a piece, and behind it what its clusters are compressed to.
            memory = try AlignedBuffer(count: job.depth * job.pieceSize * (job.options.compress ? 2 : 1))
            mailbox = try Mailbox()
        } catch {
            throw ImageError(.system, "no memory for the buffers: \(error)")
        }
    }

    /// Works until there is nothing left. `report` hears how far the disk is done.
    func run(_ report: (UInt64) -> Void) {
        var isExhausted = false
        while true {
            while !isExhausted, let slot = free.last {
                guard let taken = job.queue.next() else {
                    isExhausted = true
                    break
                }
                begin(taken, slot)
            }
            // All that came is placed before anything is written: other workers' places depend on it.
            while let finished = reader.takeFinished() { finish(finished) }
            let placed = unplaced > 0 ? mailbox.take() : []
            for placed in placed { write(placed, report) }
            if !placed.isEmpty { continue }
            if let finished = reader.waitFinished() {
                finish(finished)
            } else if job.queue.hasFailed || (unplaced == 0 && isExhausted) {
                return
            } else if unplaced > 0 {
                waitForPlace()
            }
        }
    }

    private func finish(_ finished: RequestEngine.Finished) {
        let slot = Int(finished.slot)
        attempt(slots[slot].start) { () throws(ImageError) in try finish(slot, finished) }
    }

    private func begin(_ taken: PieceQueue.Taken, _ slot: Int) {
        attempt(taken.cursor) { () throws(ImageError) in try start(taken, slot) }
    }

    private func attempt(_ place: UInt64, _ body: () throws(ImageError) -> Void) {
        do throws(ImageError) { try body() } catch { job.queue.fail(at: place, error) }
    }

    /// A short while at most: after a failure elsewhere no notice comes.
    private func waitForPlace() {
        do { try mailbox.wait(milliseconds: 50) } catch {
            job.queue.fail(at: 0, ImageError(.system, "cannot wait: \(error)"))
        }
    }

    private func piece(_ slot: Int) -> UnsafeMutableRawPointer { unsafe memory.pointer + slot * job.pieceSize }
    private func streams(_ slot: Int) -> UnsafeMutableRawBufferPointer {
        guard job.options.compress else { return unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        let start = unsafe memory.pointer + (job.depth + slot) * job.pieceSize
        return unsafe UnsafeMutableRawBufferPointer(start: start, count: job.pieceSize)
    }

    /// Starts what can be waited for; of the rest only the clusters' fate has to be found out.
    private func start(_ taken: PieceQueue.Taken, _ slot: Int) throws(ImageError) {
        free.removeLast()
        slots[slot] = Slot(number: taken.number, cursor: taken.cursor)
        switch taken.piece {
        case .data(let start, let length):
            slots[slot].start = start
            slots[slot].length = Int(length)
            unsafe reader.submit(slot: slot, GuestOffset(start), piece(slot), length: Int(length))
        case .zero(let start, let length):
            slots[slot].start = start
            slots[slot].fates = try encoder.zeros(at: start, length: length)
            try place(slot)
        case .damaged(let start, let length, let error):
            job.skipped(error)
            slots[slot].start = start
            slots[slot].fates = try encoder.zeros(at: start, length: length)
            try place(slot)
        }
    }

    private func place(_ slot: Int) throws(ImageError) {
        unplaced += 1
        try job.places.add(
            PlacementQueue.Request(
                number: slots[slot].number, guest: GuestOffset(slots[slot].start), fates: slots[slot].fates, slot: slot,
                owner: mailbox))
    }

    private func finish(_ index: Int, _ finished: RequestEngine.Finished) throws(ImageError) {
        if job.queue.hasFailed { return }
        let slot = slots[index]
        if finished.error != 0 {
            guard job.options.salvage else {
                throw job.chain.error(
                    reading: GuestOffset(slot.start), errno: finished.error, damage: finished.damage)
            }
            try salvage(index, slot)
        }
        slots[index].fates = try unsafe encoder.encode(
            UnsafeMutableRawBufferPointer(start: piece(index), count: slot.length), at: slot.start, streams(index))
        try place(index)
    }

    /// Reads a piece again in small parts. What cannot be read becomes zeros.
    private func salvage(_ index: Int, _ slot: Slot) throws(ImageError) {
        for at in stride(from: 0, to: slot.length, by: 4096) {
            let bytes = unsafe UnsafeMutableRawBufferPointer(
                start: piece(index) + at, count: min(4096, slot.length - at))
            do throws(ImageError) {
                try unsafe reader.read(GuestOffset(slot.start + UInt64(at)), into: bytes)
            } catch {
                job.skipped(error.named(job.chain.layers[0].path))
                unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
            }
        }
    }

    private func write(_ placed: PlacementQueue.Placed, _ report: (UInt64) -> Void) {
        unplaced -= 1
        let slot = slots[placed.slot]
        attempt(slot.start) { () throws(ImageError) in
            try unsafe writeStreams(streams(placed.slot), placed.placement)
            try writePlain(placed.slot, slot, placed.placement.plain)
            try job.write(placed.placement.tables)
        }
        free.append(placed.slot)
        report(slot.cursor)
    }

    private func writeStreams(_ bytes: UnsafeMutableRawBufferPointer, _ placement: ChunkPlacement) throws(ImageError) {
        var done = 0
        for run in placement.streams {
            try unsafe job.file.write(
                at: run.host, from: UnsafeRawBufferPointer(rebasing: bytes[done..<(done + run.count)]))
            done += run.count
        }
    }

    /// Writes the clusters that stay as they are: neighbours in the piece are neighbours in the file.
    private func writePlain(_ index: Int, _ slot: Slot, _ host: HostOffset) throws(ImageError) {
        let cluster = Int(job.image.clusterSize)
        var place = job.image.hasExternalData ? slot.start : host.bytes
        var at = 0
        while at < slot.fates.count {
            var end = at
            while end < slot.fates.count, slot.fates[end] == .plain { end += 1 }
            if end > at {
                // The disk's last cluster may be shorter; in a file of its own nothing follows it.
                let whole = end * cluster
                let count = (job.image.hasExternalData ? min(whole, slot.length) : whole) - at * cluster
                let bytes = unsafe UnsafeRawBufferPointer(start: piece(index) + at * cluster, count: count)
                try unsafe SparseWriter.write(bytes, at: place, to: job.data, sparse: job.options.sparse)
                place += UInt64(count)
            } else {
                end += 1
                if job.image.hasExternalData { place += UInt64(cluster) }
            }
            at = end
        }
    }
}

@available(*, unavailable) extension PlacementWriter: Sendable {}
