// Why this file exists: `qblk compare`.
import ArgumentParser
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "compare", abstract: "Not yet.")
}
