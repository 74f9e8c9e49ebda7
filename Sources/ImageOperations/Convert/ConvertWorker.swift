// One thread of a conversion: reads in flight on one side, writes of what is not zero on the other, and no byte of a
// piece that could not be read whole.

import BlockEngine
import DiskTypes
import LinuxIO

/// Reads pieces ahead and writes them. Confined to its thread.
final class ConvertWorker {
    private struct Slot {
        var start: UInt64 = 0
        var length = 0
        var cursor: UInt64 = 0
    }

    private let job: ConvertJob
    private let reader: ChainReader
    private let lane: any TargetLane
    private let memory: AlignedBuffer
    private var slots = [Slot](repeating: Slot(), count: ConvertJob.depth)
    private var free = Array(0..<ConvertJob.depth)

    init(_ job: ConvertJob) throws(ImageError) {
        self.job = job
        reader = try ChainReader(job.chain, depth: ConvertJob.depth)
        lane = try job.target.lane()
        do {
            memory = try AlignedBuffer(count: ConvertJob.depth * job.pieceSize)
        } catch {
            throw ImageError(.system, "no memory for the buffers: \(error)")
        }
    }

    /// Works until there is nothing left. `report` hears how far the disk is done.
    func run(_ report: (UInt64) -> Void) {
        while true {
            while let slot = free.last, let taken = job.queue.next() {
                take(taken.piece, slot, taken.cursor)
                if free.last == slot { report(taken.cursor) }
            }
            guard let finished = reader.waitFinished() else { return }
            let slot = slots[Int(finished.slot)]
            do throws(ImageError) {
                try finish(Int(finished.slot), slot, finished)
                report(slot.cursor)
            } catch {
                job.queue.fail(at: slot.start, error)
            }
            free.append(Int(finished.slot))
        }
    }

    private func buffer(_ slot: Int) -> UnsafeMutableRawPointer { unsafe memory.pointer + slot * job.pieceSize }

    /// Starts what can be waited for and does the rest at once.
    private func take(_ piece: CopySource.Piece, _ slot: Int, _ cursor: UInt64) {
        do throws(ImageError) {
            switch piece {
            case .data(let start, let length):
                free.removeLast()
                slots[slot] = Slot(start: start, length: Int(length), cursor: cursor)
                unsafe reader.submit(slot: slot, GuestOffset(start), buffer(slot), length: Int(length))
            case .zero(let start, let length):
                try lane.zero(at: start, length: length)
            case .damaged(let start, let length, let error):
                job.skipped(error)
                try lane.zero(at: start, length: length)
            }
        } catch {
            job.queue.fail(at: cursor, error)
        }
    }

    private func finish(_ index: Int, _ slot: Slot, _ finished: RequestEngine.Finished) throws(ImageError) {
        if finished.error == 0 {
            let bytes = unsafe UnsafeRawBufferPointer(start: buffer(index), count: slot.length)
            return try unsafe SparseWriter.write(bytes, at: slot.start, to: lane, sparse: job.options.sparse)
        }
        guard job.options.salvage else {
            throw job.chain.error(
                reading: GuestOffset(slot.start), errno: finished.error, damage: finished.damage)
        }
        try salvage(index, slot)
    }

    /// Reads a piece again in small parts. What cannot be read becomes zeros.
    private func salvage(_ index: Int, _ slot: Slot) throws(ImageError) {
        let part = 4096
        for at in stride(from: 0, to: slot.length, by: part) {
            let place = slot.start + UInt64(at)
            let bytes = unsafe UnsafeMutableRawBufferPointer(start: buffer(index), count: min(part, slot.length - at))
            do throws(ImageError) {
                try unsafe reader.read(GuestOffset(place), into: bytes)
            } catch {
                job.skipped(error.named(job.chain.layers[0].path))
                unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
            }
            try unsafe SparseWriter.write(
                UnsafeRawBufferPointer(bytes), at: place, to: lane, sparse: job.options.sparse)
        }
    }
}
