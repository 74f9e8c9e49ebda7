// Zeros and discards change the mapping and move no bytes, where the format has an entry for that: whole clusters, or
// subclusters of extended entries. What it has no entry for is written out.

public import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// What becomes of the place of bytes that are made zero.
public enum ZeroMode: Sendable {
    /// It stays the guest's.
    case keep
    /// It is given up.
    case unmap
    /// It is given up, and the bytes need not even be zero, as long as nothing older shows.
    case discard
    /// It is given up and nothing takes its place, for the disk will end before it.
    case forget
}

/// The answer to a request for zeros (`QCOW2Writer.zero`).
public enum ZeroGrant: Equatable, Sendable {
    /// So many bytes are dealt with.
    case done(UInt64)
    /// So many bytes must be written as zeros.
    case write(UInt64)
    /// A write in flight must end first: ask again when it has.
    case busy
    /// The helper thread must do something first: ask again afterwards.
    case wants
    /// Fetch this part of a table, `supply` it, ask again.
    case needs(TableRead)
    /// The request fails with this errno.
    case failed(Int32)
}

extension QCOW2Writer {
    /// Makes bytes at `guest` zero by their entries: as many of `length` (> 0) as one slice has.
    public func zero(_ guest: GuestOffset, length: UInt64, _ mode: ZeroMode) -> ZeroGrant {
        state.withLock { state in
            if let error = state.status.closedBy { return .failed(error) }
            guard state.status.isPrepared else { return zeroGrant(state.prerequisites.require(.preparation)) }
            let rest = UInt64(1) << map.coverageBits - guest.bytes & (1 << map.coverageBits - 1)
            if mode == .forget, map.l1[Int(truncatingIfNeeded: guest.bytes >> map.coverageBits)] == 0 {
                return .done(min(length, rest))
            }
            if mode == .forget { return zeroAligned(guest, length, mode, &state) }
            // A raw external file has the guest's bytes itself, zeros too; and version 2 has no entry for zeros.
            let hasEntry = header.version >= 3 || !hasBacking
            if mode == .discard, isRawExternal || !hasEntry { return .done(min(length, rest)) }
            if isRawExternal || (!hasEntry || (header.version < 3 && mode == .keep)) {
                return .write(min(length, map.clusterSize - guest.bytes & (map.clusterSize - 1)))
            }
            if map.l1[Int(truncatingIfNeeded: guest.bytes >> map.coverageBits)] == 0, !hasBacking {
                return .done(min(length, rest))
            }
            return zeroAligned(guest, length, mode, &state)
        }
    }

    private func zeroAligned(
        _ guest: GuestOffset, _ length: UInt64, _ mode: ZeroMode, _ state: inout State
    ) -> ZeroGrant {
        let gives = mode == .discard || mode == .forget
        let unitBits = gives ? map.clusterBits : map.subclusterBits
        let units = wholeUnits(guest, length, unitBits)
        guard units > 0 else {
            let unit = UInt64(1) << unitBits
            let part = min(length, unit - guest.bytes & (unit - 1))
            return gives ? .done(part) : .write(part)
        }
        if let wait = withoutTable(guest, &state) { return zeroGrant(wait) }
        return zeroUnits(guest, units, mode, &state)
    }

    private func zeroGrant(_ grant: WriteGrant) -> ZeroGrant {
        switch grant {
        case .failed(let error): .failed(error)
        case .needs(let table): .needs(table)
        case .busy: .busy
        default: .wants
        }
    }

    /// How many bytes of whole units begin at `guest`. The disk's last unit may be cut short.
    private func wholeUnits(_ guest: GuestOffset, _ length: UInt64, _ bits: UInt64) -> UInt64 {
        let mask = UInt64(1) << bits - 1
        guard guest.bytes & mask == 0 else { return 0 }
        let end = guest.bytes + length
        let stop = end == map.size ? end : end & ~mask
        return stop > guest.bytes ? stop - guest.bytes : 0
    }

    private func zeroUnits(_ guest: GuestOffset, _ length: UInt64, _ mode: ZeroMode, _ state: inout State) -> ZeroGrant
    {
        let slice = Int(truncatingIfNeeded: guest.bytes >> map.sliceCoverageBits)
        guard state.changes.hasRoom(1) else { return zeroGrant(state.prerequisites.require(.writeBack)) }
        state.changes.beginChange()
        switch map.cache.pin(slice) {
        case nil: return zeroGrant(state.prerequisites.require(.writeBack))
        case false?:
            let table = MappingWord(map.l1[Int(guest.bytes >> map.coverageBits)]).offset
            return .needs(map.tableRead(slice, l2Table: table))
        case true?: break
        }
        defer { map.cache.unpin(slice) }
        let end = min(guest.bytes + length, UInt64(slice + 1) << map.sliceCoverageBits)
        var at = guest.bytes
        let busy = state.changes.nextInFlight(from: at >> map.clusterBits)
        while at < end, at >> map.clusterBits < busy, state.changes.hasRoom(1) {
            let index = map.entryIndex(GuestOffset(at))
            let clusterEnd = (at >> map.clusterBits + 1) << map.clusterBits
            let word = MappingWord(map.cache.word(slice, index))
            if word.isDamaged { return at > guest.bytes ? .done(at - guest.bytes) : .failed(EIO) }
            let stop = min(clusterEnd, end)
            if map.rules.subclusters, word.isCompressed,
                at & (map.clusterSize - 1) != 0 || stop < min(clusterEnd, map.size)
            {
                // A part of a compressed cluster has no bits of its own.
                return at > guest.bytes ? .done(at - guest.bytes) : .write(stop - at)
            }
            if map.rules.subclusters {
                zeroExtended(slice, index, word, from: at, to: stop, mode, &state)
            } else {
                zeroStandard(slice, index, word, mode, &state)
            }
            at = stop
        }
        return at > guest.bytes ? .done(at - guest.bytes) : .busy
    }

    private func zeroStandard(_ slice: Int, _ index: Int, _ word: MappingWord, _ mode: ZeroMode, _ state: inout State) {
        let keeps = mode == .keep && isOwn(word)
        let none: UInt64 = header.version >= 3 && mode != .forget ? MappingWord.zeroFlag : 0
        // Discarded bytes that nothing was ever written to stay what they are.
        if word.raw == 0, !hasBacking { return }
        let new = keeps ? word.raw | MappingWord.zeroFlag : none
        guard new != word.raw else { return }
        if !keeps { state.changes.unlink(word, map) }
        state.changes.change(slice, index, new, map)
    }

    private func zeroExtended(
        _ slice: Int, _ index: Int, _ word: MappingWord, from: UInt64, to: UInt64, _ mode: ZeroMode,
        _ state: inout State
    ) {
        let first = from >> map.subclusterBits & 31
        let count = (to - from + 1 << map.subclusterBits - 1) >> map.subclusterBits
        let units = (UInt64(1) << count - 1) << first
        let bits = map.cache.word(slice, index + 1)
        if units == 0xffff_ffff || word.isCompressed || to == map.size && first == 0, mode != .keep || !isOwn(word) {
            if word.raw == 0, bits == 0, !hasBacking || mode == .forget { return }
            state.changes.unlink(word, map)
            return state.changes.changePair(slice, index, 0, mode == .forget ? 0 : 0xffff_ffff << 32, map)
        }
        let new = (bits | units << 32) & ~units
        if new != bits { state.changes.changePair(slice, index, word.raw, new, map) }
    }
}
