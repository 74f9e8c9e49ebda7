// `info --json` has the keys of `qemu-img info --output=json` (QEMU 10), so that scripts can change one word. Keys
// stand where qemu-img would put them in its text, too: `+Text` prints the same tree.

public import DiskTypes
public import QCOW2
import LinuxIO

extension ImageInfo {
    /// The object of `qemu-img info --output=json` for the image.
    public var json: JSONValue {
        .members([
            "children": .array([.members(["name": .string("file"), "info": file.json])]),
            "snapshots": snapshots.isEmpty ? nil : .array(snapshots.map(\.json)),
            "backing-filename-format": backingFormat.map { .string($0) },
            "virtual-size": .unsigned(virtualSize),
            "filename": .name(filename.name),
            "cluster-size": clusterSize.map { .unsigned($0) },
            "format": .string(format),
            "actual-size": .unsigned(actualSize),
            "format-specific": formatSpecific.map { .members(["type": .string(format), "data": $0]) },
            "full-backing-filename": fullBackingFilename.map { .name($0) },
            "backing-filename": backingFilename.map { .name($0) },
            "encrypted": isEncrypted ? .bool(true) : nil,
            "dirty-flag": .bool(isDirty),
        ])
    }

    /// What only this format has; nil for raw.
    var formatSpecific: JSONValue? { specific?.json ?? luks?.json(isLayer: false) }
}

extension FileInfo {
    var json: JSONValue {
        .members([
            "children": .array([]),
            "virtual-size": .unsigned(length),
            "filename": .name(filename.name),
            "format": .string(driver),
            "actual-size": .unsigned(actualSize),
            "format-specific": isBlockDevice
                ? nil : .members(["type": .string("file"), "data": specific]),
            "dirty-flag": .bool(false),
        ])
    }
    var specific: JSONValue { .members(["extent-size-hint": extentSizeHint.map { .unsigned(UInt64($0)) }]) }
}

extension Snapshot {
    /// An entry of `snapshots`, as qemu-img has it.
    public var json: JSONValue {
        .members([
            "icount": icount.map { .unsigned($0) },
            "vm-clock-nsec": .unsigned(vmClock % 1_000_000_000),
            "name": .string(name),
            "date-sec": .unsigned(UInt64(dateSeconds)),
            "date-nsec": .unsigned(UInt64(dateNanoseconds)),
            "vm-clock-sec": .unsigned(vmClock / 1_000_000_000),
            "id": .string(id),
            "vm-state-size": .unsigned(vmStateSize),
        ])
    }
}

extension QCOW2Info {
    var json: JSONValue {
        let v3 = version >= 3
        return .members([
            "compat": .string(v3 ? "1.1" : "0.10"),
            "compression-type": .string(compression),
            "lazy-refcounts": v3 ? .bool(lazyRefcounts) : nil,
            "bitmaps": bitmaps.isEmpty ? nil : .array(bitmaps.map(\.json)),
            "refcount-bits": .number(refcountBits),
            "encrypt": encryption?.json,
            "data-file": dataFile.map { .name($0) },
            "data-file-raw": dataFileRaw.map { .bool($0) },
            "corrupt": v3 ? .bool(isCorrupt) : nil,
            "extended-l2": v3 ? .bool(extendedL2) : nil,
        ])
    }
}

extension Bitmap {
    var json: JSONValue {
        let flags = (isInUse ? ["in-use"] : []) + (isAuto ? ["auto"] : [])
        return .members([
            "flags": .strings(flags), "name": .string(name), "granularity": .unsigned(granularity),
        ])
    }
}

extension EncryptionInfo {
    var json: JSONValue {
        switch self {
        case .aes: .members(["format": .string("aes")])
        case .luks(nil): .members(["format": .string("luks")])
        case .luks(.some(let header)): header.json(isLayer: true)
        }
    }
}

extension LUKSHeader {
    /// `isLayer`: the header is a part of a qcow2 image, which says so.
    func json(isLayer: Bool) -> JSONValue {
        .members([
            "ivgen-alg": .string(ivGenerator),
            "detached-header": .bool(false),
            "hash-alg": .string(hash),
            "cipher-alg": .string(cipher),
            "uuid": .string(uuid),
            "ivgen-hash-alg": ivHash.map { .string($0) },
            "format": isLayer ? .string("luks") : nil,
            "cipher-mode": .string(cipherMode),
            "slots": .array(slots.map(\.json)),
            "payload-offset": .unsigned(payloadOffset),
            "master-key-iters": .unsigned(UInt64(iterations)),
        ])
    }
}

extension LUKSHeader.Slot {
    var json: JSONValue {
        .members([
            "active": .bool(isActive),
            "iters": isActive ? .unsigned(UInt64(iterations)) : nil,
            "key-offset": .unsigned(keyOffset),
            "stripes": isActive ? .unsigned(UInt64(stripes)) : nil,
        ])
    }
}
