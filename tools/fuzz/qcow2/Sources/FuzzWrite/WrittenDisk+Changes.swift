// What a worker and the image's helper do to an image that is written, one step at a time, each of which the fuzzer
// chooses.

import DiskTypes
import FuzzKit
import QCOW2

extension WrittenDisk {
    // MARK: the helper

    func help() {
        for want in writer.takePrerequisites() {
            if want == .writeBack {
                writeBack()
                continue
            }
            do { try writer.satisfy(want, storage) } catch {
                hasFailed = true
                writer.fail(want, error.number ?? 5)
            }
        }
    }

    func writeBack() {
        do {
            freed.append(try writer.writeBack(to: storage, data: data))
        } catch {
            hasFailed = true
            return
        }
        for i in openWrites.indices { openWrites[i].isOld = true }
        let now = Tables(image.header, storage)
        storage.tables = wasClean ? now : now.those(of: firstTables)
        guard wasClean else { return }
        let report = try? ImageCheck.check(storage)
        require(
            report?.verdict != .corrupt && report != nil, "after a write-back: \(report?.findings.first?.line ?? "?")")
    }

    func release(discards: Bool) {
        let list = freed
        freed = FreedClusters()
        do { try writer.release(list, storage: storage, discards: discards) } catch { hasFailed = true }
    }

    // MARK: a worker

    /// Begins to write; writes stay open until `finish`.
    func write(_ start: UInt64, _ length: Int, _ mark: UInt8) {
        remember(start, length)
        var done = 0
        var tries = 0
        while done < length {
            tries += 1
            require(tries < 2000, "a write at \(start) of \(length) comes to no end")
            let guest = start + UInt64(done)
            guard writer.isPrepared else {
                let grant = writer.begin(GuestOffset(guest), length: 1)
                if case .failed = grant { return hasFailed = true }
                help()
                continue
            }
            switch map.lookupForWrite(GuestOffset(guest), length: UInt64(length - done)) {
            case .needs(let table): supply(table)
            case .damaged(let damage):
                if damage.reason == .overlapsMetadata { writer.foundCorruption() }
                return
            case .inPlace(let extent):
                require(extent.length > 0 && extent.length <= UInt64(length - done), "\(extent)")
                if put(extent.host.bytes, [UInt8](repeating: mark, count: Int(extent.length))) {
                    note(guest, Int(extent.length), mark)
                }
                done += Int(extent.length)
            case .allocate(let part):
                require(part > 0 && part <= UInt64(length - done), "\(part) bytes to allocate of \(length - done)")
                guard let count = begin(guest, Int(part), mark) else { return }
                done += count
            }
        }
    }

    /// How many bytes are dealt with; nil: an error.
    private func begin(_ guest: UInt64, _ length: Int, _ mark: UInt8) -> Int? {
        switch writer.begin(GuestOffset(guest), length: UInt64(length)) {
        case .inPlace: return 0
        case .busy:
            require(!openWrites.isEmpty, "busy, and no write is open")
            finishAll()
        case .wants:
            help()
            // Tickets hold slices of L2 in memory, which may be what there is none of.
            if openWrites.count > 2 { finishAll() }
        case .needs(let table): supply(table)
        case .failed:
            hasFailed = true
            return nil
        case .granted(let granted):
            require(granted.guest.bytes <= guest && guest < granted.guest.bytes + granted.length, "\(granted)")
            let count = min(length, Int(granted.guest.bytes + granted.length - guest))
            openWrites.append(OpenWrite(granted: granted, guest: guest, length: count, mark: mark))
            return count
        }
        return 0
    }

    /// Writes the bytes of an open write and ends it, or says that they could not be written.
    func finish(_ index: Int, works: Bool) {
        let open = openWrites.remove(at: index)
        let granted = open.granted
        guard works else { return _ = writer.finish(granted, isWritten: false) }
        let inside = Int(open.guest - granted.guest.bytes)
        var bytes = [UInt8](repeating: open.mark, count: open.length)
        var from = inside
        if granted.fill != AllocatingWrite.CowFill.none {
            var whole = [UInt8](repeating: 0, count: Int(granted.length))
            if granted.fill == .copy {
                let there = Int(min(granted.length, map.size - granted.guest.bytes))
                guard let old = read(granted.guest.bytes, there) else {
                    return _ = writer.finish(granted, isWritten: false)
                }
                whole.replaceSubrange(0..<there, with: old)
            }
            whole.replaceSubrange(inside..<inside + open.length, with: bytes)
            (bytes, from) = (whole, 0)
        }
        // An external file ends with the disk.
        if data != nil { bytes = Array(bytes.prefix(Int(clamping: map.size - granted.guest.bytes) - from)) }
        let astray: UInt64 = goesAstray && open.isOld ? 512 : 0
        let isWritten = put(granted.host.bytes + UInt64(from) + astray, bytes)
        writer.finish(granted, isWritten: isWritten)
        if isWritten { note(open.guest, open.length, open.mark) }
    }

    func finishAll() { while !openWrites.isEmpty { finish(0, works: true) } }

    private func put(_ host: UInt64, _ bytes: [UInt8]) -> Bool {
        let file = data ?? storage
        file.purpose = .data
        defer { file.purpose = .tables }
        do { try file.write(at: HostOffset(host), bytes) } catch {
            hasFailed = true
            return false
        }
        return true
    }

    func zero(_ start: UInt64, _ length: Int, _ mode: ZeroMode) {
        remember(start, length)
        var done = 0
        var tries = 0
        while done < length {
            tries += 1
            require(tries < 2000, "zeros at \(start) of \(length) come to no end")
            let guest = start + UInt64(done)
            let grant = writer.zero(GuestOffset(guest), length: UInt64(length - done), mode)
            switch grant {
            case .done(let count), .write(let count):
                require(count > 0 && count <= UInt64(length - done), "\(grant) of \(length - done)")
                if case .write = grant {
                    write(guest, Int(count), 0)
                    finishAll()
                } else if mode == .discard {
                    noteDiscard(guest, Int(count))
                } else {
                    note(guest, Int(count), 0)
                }
                done += Int(count)
            case .busy:
                require(!openWrites.isEmpty, "busy, and no write is open")
                finishAll()
            case .wants:
                help()
                if openWrites.count > 2 { finishAll() }
            case .needs(let table): supply(table)
            case .failed: return hasFailed = true
            }
        }
    }

    /// As when an image is closed.
    func close() {
        finishAll()
        for _ in 0..<2 {
            writeBack()
            release(discards: false)
        }
        writeBack()
        do { try writer.trim(storage, startLength: startLength) } catch { hasFailed = true }
        verify("at the end")
        guard wasClean else { return }
        let report = try? ImageCheck.check(storage)
        let isFine = report?.verdict == .clean || hasFailed && report?.verdict == .leaks
        require(isFine, "at the end: \(report?.findings.first?.line ?? "no report")")
    }
}
