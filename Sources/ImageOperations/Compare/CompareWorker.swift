// One thread of a comparison: the same piece of two disks, read side by side several pieces ahead, and compared when
// both are here.

import BlockEngine
import DiskTypes
import ImageChain
import LinuxIO

/// One of the two disks, as a worker reads it.
private final class Side {
    let chain: ImageChain
    private let reader: ChainReader
    private let memory: AlignedBuffer
    private let pieceSize: Int
    /// What came of the read of a slot; nil while it is in flight.
    private var outcomes: [RequestEngine.Finished?]

    init(_ chain: ImageChain, depth: Int, pieceSize: Int) throws(ImageError) {
        self.chain = chain
        self.pieceSize = pieceSize
        reader = try ChainReader(chain, depth: depth)
        do {
            memory = try AlignedBuffer(count: depth * pieceSize)
        } catch {
            throw ImageError(.system, "no memory for the buffers: \(error)")
        }
        outcomes = Array(repeating: nil, count: depth)
    }

    func buffer(_ slot: Int) -> UnsafeMutableRawPointer { unsafe memory.pointer + slot * pieceSize }

    func submit(_ slot: Int, _ start: UInt64, _ length: UInt64) {
        outcomes[slot] = nil
        unsafe reader.submit(slot: slot, GuestOffset(start), buffer(slot), length: Int(length))
    }

    /// Waits until the slot's bytes are here.
    func wait(_ slot: Int, at start: UInt64) throws(ImageError) {
        while outcomes[slot] == nil, let finished = reader.waitFinished() { outcomes[Int(finished.slot)] = finished }
        guard let outcome = outcomes[slot], outcome.error != 0 else { return }
        throw chain.error(reading: GuestOffset(start), errno: outcome.error, damage: outcome.damage)
    }
}

/// Reads pieces of both disks ahead and compares them. Confined to its thread.
final class CompareWorker {
    private let job: CompareJob
    private let first: Side
    private let second: Side
    /// Pieces in flight, oldest first; each is in slot number `turn % depth`.
    private var pieces: [PairSource.Piece] = []
    private var oldest = 0

    init(_ job: CompareJob) throws(ImageError) {
        self.job = job
        first = try Side(job.first, depth: CompareJob.depth, pieceSize: job.pieceSize)
        second = try Side(job.second, depth: CompareJob.depth, pieceSize: job.pieceSize)
    }

    /// Works until there is nothing left. `report` hears how far the disks are done.
    func run(_ report: (UInt64) -> Void) {
        while true {
            while pieces.count < CompareJob.depth, let piece = job.nextPiece() {
                let slot = (oldest + pieces.count) % CompareJob.depth
                if piece.reads.first { first.submit(slot, piece.start, piece.length) }
                if piece.reads.second { second.submit(slot, piece.start, piece.length) }
                pieces.append(piece)
            }
            guard let piece = pieces.first else { return }
            finish(piece, oldest % CompareJob.depth)
            pieces.removeFirst()
            oldest += 1
            report(piece.start + piece.length)
        }
    }

    private func finish(_ piece: PairSource.Piece, _ slot: Int) {
        do throws(ImageError) {
            // Both are waited for whatever happens: the kernel may still be writing into their memory.
            let problems = [
                piece.reads.first ? attempt(first, slot, piece.start) : nil,
                piece.reads.second ? attempt(second, slot, piece.start) : nil,
            ]
            for problem in problems { if let problem { throw problem } }
            if let at = difference(piece, slot) {
                let place = piece.start + UInt64(at)
                job.found(.contentDiffers(at: place), at: place)
            }
        } catch {
            job.found(.reading, error, at: piece.start)
        }
    }

    private func attempt(_ side: Side, _ slot: Int, _ start: UInt64) -> ImageError? {
        do throws(ImageError) {
            try side.wait(slot, at: start)
            return nil
        } catch {
            return error
        }
    }

    private func difference(_ piece: PairSource.Piece, _ slot: Int) -> Int? {
        let count = Int(piece.length)
        switch piece.reads {
        case (true, true): return unsafe ZeroScan.firstDifference(first.buffer(slot), second.buffer(slot), count)
        case (true, false): return unsafe ZeroScan.firstData(.init(start: first.buffer(slot), count: count))
        default: return unsafe ZeroScan.firstData(.init(start: second.buffer(slot), count: count))
        }
    }
}
